// The two formats of the quantised kernel: their instructions, products and rounding. Macro: E4M3 (not int8).
//
// e4m3 products are computed as fp16 ones, which hold e4m3 numbers exactly: `mma` of e4m3 operands keeps 13 bits of a sum
// on Ada (Zhang et al., "SageAttention2", arXiv:2411.10958), and on Hopper the compiler makes these fp16 products of it.
//
// Instructions: PTX ISA (mma, cvt, bar).

#ifndef LENET_HOST_EMULATOR

// sums (16x8) += a (16x32) times b (32x8) of int8.
__device__ __forceinline__ void multiply_add_int8(int (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else  // compute capability 7.5 has 8 rows and half the depth
    for (int i = 0; i < 4; ++i)
        asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
            : "+r"(sums[i % 2 * 2]), "+r"(sums[i % 2 * 2 + 1])
            : "r"(a[i]), "r"(i < 2 ? b0 : b1));
#endif
}

// Of depth 16.
__device__ __forceinline__ void multiply_add_int8(int (&sums)[4], uint2 a, unsigned b) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(a.x), "r"(a.y), "r"(b));
#else
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
        : "+r"(sums[0]), "+r"(sums[1])
        : "r"(a.x), "r"(b));
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
        : "+r"(sums[2]), "+r"(sums[3])
        : "r"(a.y), "r"(b));
#endif
}

// A barrier of a part of the block, of so many threads; parts are numbered from 0.
__device__ __forceinline__ void sync_part(int part, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(part + 1), "r"(threads) : "memory");
}

// The lowest bytes of four words.
__device__ __forceinline__ unsigned low_bytes(unsigned a, unsigned b, unsigned c, unsigned d) {
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

// Four e4m3 numbers: rounded to nearest even, 448 at most in size; with RELU negative numbers become 0.
template <bool RELU>
__device__ __forceinline__ unsigned pack_e4m3(float a, float b, float c, float d) {
    unsigned packed = 0;
#if __CUDA_ARCH__ >= 890
    if constexpr (RELU) {
        asm("{ .reg .b16 l, h; cvt.rn.satfinite.relu.e4m3x2.f32 l, %2, %1; cvt.rn.satfinite.relu.e4m3x2.f32 h, %4, %3;"
            " mov.b32 %0, {l, h}; }"
            : "=r"(packed)
            : "f"(a), "f"(b), "f"(c), "f"(d));
    } else {
        asm("{ .reg .b16 l, h; cvt.rn.satfinite.e4m3x2.f32 l, %2, %1; cvt.rn.satfinite.e4m3x2.f32 h, %4, %3;"
            " mov.b32 %0, {l, h}; }"
            : "=r"(packed)
            : "f"(a), "f"(b), "f"(c), "f"(d));
    }
#endif
    return packed;
}

// Four e4m3 numbers as two words of two fp16 ones. Volatile: the compiler would do it once for all tiles, and has no
// registers to hold the result.
__device__ __forceinline__ uint2 unpack_e4m3(unsigned word) {
    uint2 halves = make_uint2(0, 0);
#if __CUDA_ARCH__ >= 890
    asm volatile("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.rn.f16x2.e4m3x2 %0, l; cvt.rn.f16x2.e4m3x2 %1, h; }"
        : "=r"(halves.x), "=r"(halves.y)
        : "r"(word));
#endif
    return halves;
}

#endif  // LENET_HOST_EMULATOR

struct Halves {
    unsigned blocks[2][4];
};
template <bool>
struct Format {
    using Sum = int;
    using AOperand = uint4;
    // A convolution's sums begin at the bits of 1.5 x 2^23: as a float they are then that much more than the sum, which
    // is less than 2^22 in size.
    static constexpr int START = 0x4B400000;
    static constexpr float START_AS_FLOAT = 12582912.0f;
};
template <>
struct Format<true> {
    using Sum = float;
    using AOperand = Halves;
    static constexpr float START = 0.0f, START_AS_FLOAT = 0.0f;
};
using Sum = Format<E4M3>::Sum;
using AOperand = Format<E4M3>::AOperand;
constexpr Sum START = Format<E4M3>::START;

// `mma`'s a operand of two blocks of depth 16, and products of both blocks or of the first alone.
__device__ __forceinline__ void unpack(uint4& to, uint4 words) { to = words; }
__device__ __forceinline__ void product(int (&sums)[4], uint4 a, unsigned b0, unsigned b1) {
    multiply_add_int8(sums, {a.x, a.y, a.z, a.w}, b0, b1);
}
__device__ __forceinline__ void product(int (&sums)[4], uint4 a, unsigned b) {
    multiply_add_int8(sums, make_uint2(a.x, a.y), b);
}
__device__ __forceinline__ void unpack(Halves& to, uint4 words) {
    unsigned rows[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        uint2 halves = unpack_e4m3(rows[i]);
        to.blocks[i / 2][i % 2] = halves.x, to.blocks[i / 2][i % 2 + 2] = halves.y;
    }
}
__device__ __forceinline__ void product(float (&sums)[4], const Halves& a, unsigned b) {
    uint2 right = unpack_e4m3(b);
    multiply_add<false>(sums, a.blocks[0], right.x, right.y);
}
__device__ __forceinline__ void product(float (&sums)[4], const Halves& a, unsigned b0, unsigned b1) {
    product(sums, a, b0);
    uint2 right = unpack_e4m3(b1);
    multiply_add<false>(sums, a.blocks[1], right.x, right.y);
}
__device__ __forceinline__ AOperand a_operand(uint4 words) {
    AOperand operand;
    unpack(operand, words);
    return operand;
}
__device__ __forceinline__ AOperand a_operand(uint2 words) { return a_operand(make_uint4(words.x, words.y, 0, 0)); }

// A convolution's sum, plus START_AS_FLOAT, as a float.
__device__ __forceinline__ float as_float(int sum) { return __uint_as_float(static_cast<unsigned>(sum)); }
__device__ __forceinline__ float as_float(float sum) { return sum; }

// Scaled values as numbers of the format, in a word. An int8 scaling maps the format's range to 0 to 1: -128 to 127 for
// pixels, 0 to 127 after a ReLU. Adding 1.5 x 2^23 rounds to nearest even.
template <int LOWEST>
__device__ __forceinline__ unsigned round_to_int8(float fraction) {
    return __float_as_uint(fmaf(__saturatef(fraction), 127.0f - LOWEST, 12582912.0f + LOWEST));
}
template <bool RELU>
__device__ __forceinline__ unsigned quantize(float a, float b, float c, float d) {
    if constexpr (E4M3) {
        return pack_e4m3<RELU>(a, b, c, d);
    } else {
        constexpr int LOWEST = RELU ? 0 : -128;
        return low_bytes(round_to_int8<LOWEST>(a), round_to_int8<LOWEST>(b), round_to_int8<LOWEST>(c),
                         round_to_int8<LOWEST>(d));
    }
}
