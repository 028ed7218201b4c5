// What the kernels share: LeNet's sizes, and the few instructions that C++ has no name for.
//
// Everything that a CPU has no instruction for stands between the two #ifndef lines: the host emulator of the tests
// (tests/kernels/emulator.h) defines LENET_HOST_EMULATOR and gives its own. No header is included, so NVRTC needs none.
//
// Instructions: PTX ISA, https://docs.nvidia.com/cuda/parallel-thread-execution/ (cp.async, cp.async.bulk, mbarrier,
// ldmatrix, mma, cvt).

constexpr int CHANNELS = 3, SIZE = 32, PIXELS = CHANNELS * SIZE * SIZE;  // of an image
constexpr int WARP = 32;  // threads
constexpr int KERNEL = 5;
constexpr int MAPS1 = 6, SIDE1 = 14;   // after the first convolution and its pool
constexpr int MAPS2 = 16, SIDE2 = 5;   // after the second
constexpr int POOLED1 = SIDE1 * SIDE1, POOLED2 = SIDE2 * SIDE2;
constexpr int FEATURES = MAPS2 * POOLED2, HIDDEN1 = 120, HIDDEN2 = 84, CLASSES = 10;
constexpr int BIASES = MAPS1 + MAPS2 + HIDDEN1 + HIDDEN2 + CLASSES;
constexpr int BIAS1 = 0, BIAS2 = MAPS1, BIAS3 = BIAS2 + MAPS2, BIAS4 = BIAS3 + HIDDEN1, BIAS5 = BIAS4 + HIDDEN2;

__device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
__device__ constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }

#ifndef LENET_HOST_EMULATOR

#define SHARED_MEMORY(name) extern __shared__ uint4 name[]

// Start copying 16 bytes from global to shared memory; without registers from compute capability 8.0 on.
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
    unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
#else
    *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}

// End a group of the thread's copies, and wait until all but its PENDING last groups are done.
__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Bulk copies, from compute capability 9.0 on: one thread starts a copy of many bytes. A thread's own loads and `cp.async`
// complete in the order in which they start, so weights would wait for an image that comes from the host's memory. Bulk
// copies do not wait for them.
#if __CUDA_ARCH__ >= 900
constexpr bool BULK = true;
#else
constexpr bool BULK = false;
#endif

// An `mbarrier` in shared memory, which completes a phase with each bulk copy. One thread calls `init` and, for one copy
// after the other, `copy`. After a `__syncthreads`, each thread that reads what came calls `wait`.
struct alignas(8) Mbarrier {
    unsigned long long state;

#if __CUDA_ARCH__ >= 900
    __device__ __forceinline__ void init() {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address()) : "memory");
    }
    // `to` and `from` are aligned to 16 bytes. A `__syncthreads` stands between other accesses to `to` and this call. The
    // fence orders them before the copy, which goes through the async proxy.
    __device__ __forceinline__ void copy(uint4* to, const uint4* from, int chunks) {
        unsigned at = address(), bytes = 16 * chunks;
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                     ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))), "l"(from), "r"(bytes), "r"(at)
                     : "memory");
    }
    // Waits for the first copy or, where `phase` is 1, the second, and so on alternately.
    __device__ __forceinline__ void wait(unsigned phase = 0) {
        unsigned done = 0;
        while (!done)
            asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                         : "=r"(done)
                         : "r"(address()), "r"(phase)
                         : "memory");
    }
    __device__ __forceinline__ unsigned address() { return static_cast<unsigned>(__cvta_generic_to_shared(this)); }
#else
    __device__ __forceinline__ void init() {}
    __device__ __forceinline__ void copy(uint4*, const uint4*, int) {}
    __device__ __forceinline__ void wait(unsigned = 0) {}
#endif
    __device__ __forceinline__ void init_and_copy(uint4* to, const uint4* from, int chunks) {
        init();
        copy(to, from, chunks);
    }
};

// Adds 1 to a counter. True if that makes `count`; the counter is then 0 again. The thread that gets true sees what the
// others wrote before their call, and what other threads of their blocks wrote before a `__syncthreads` in front of it.
// After another `__syncthreads` its own block sees it too (acquire and release: PTX ISA, "Memory Consistency Model").
__device__ __forceinline__ bool is_last_of(unsigned count, unsigned* counter) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counter), "r"(count - 1)
                 : "memory");
    return before == count - 1;
}

// 16 bytes that are read once, so they take no place in L1. Volatile: the compiler does not move the load down to its use.
__device__ __forceinline__ uint4 load_once(const uint4* from) {
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
}

// Byte INDEX of a word as a float, minus 128: its bits become the lowest of 2^23's mantissa.
template <int INDEX>
__device__ __forceinline__ float centred(unsigned word) {
    constexpr unsigned TWO_23 = 0x4B000000;    // 2^23 as a float: its mantissa's last place is 1
    constexpr unsigned INTO_LOWEST = 0x7650;  // bytes of the result, from the highest: three of TWO_23, then one of `word`
    return __uint_as_float(__byte_perm(word, TWO_23, INTO_LOWEST + INDEX)) - (8388608.0f + 128.0f);
}

// Two floats rounded to nearest even and packed, the first in the lower half.
__device__ __forceinline__ unsigned pack_half(float low, float high) {
    unsigned packed;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
#else
    asm("{ .reg .f16 l, h; cvt.rn.f16.f32 l, %1; cvt.rn.f16.f32 h, %2; mov.b32 %0, {l, h}; }"
        : "=r"(packed)
        : "f"(low), "f"(high));
#endif
    return packed;
}
__device__ __forceinline__ unsigned pack_bfloat(float low, float high) {
    unsigned packed = 0;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
#endif
    return packed;
}
__device__ __forceinline__ float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// Four 8x8 matrices of 16-bit elements; lane 8i + r points at the 16 bytes of row r of matrix i. Lane 4r + c gets
// elements 2c and 2c + 1 of row r of each.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], const void* row) {
    unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

// sums (16x8) += a (16x16) times b (16x8), by the warp's tensor cores; float32 accumulation.
template <bool IS_BFLOAT>
__device__ __forceinline__ void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
    if constexpr (IS_BFLOAT) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
#else  // compute capability 7.5 has half the depth
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

__device__ __forceinline__ float from_lane_xor(float value, int mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}

#endif  // LENET_HOST_EMULATOR

// The bytes of a word, minus 128, as four floats.
__device__ __forceinline__ float4 widen(unsigned word) {
    return make_float4(centred<0>(word), centred<1>(word), centred<2>(word), centred<3>(word));
}

__device__ __forceinline__ float max4(float a, float b, float c, float d) {
    return fmaxf(fmaxf(a, b), fmaxf(c, d));
}

// The block starts asynchronous copies of `chunks` pieces of 16 bytes.
__device__ __forceinline__ void copy_block(uint4* shared, const uint4* global, int chunks, int threads) {
#pragma unroll 1
    for (int i = threadIdx.x; i < chunks; i += threads) copy_async(shared + i, global + i);
}

// Images FROM to TO of a block, prefetched from global memory into registers: a thread's pieces of 16 bytes.
template <int PIECES_PER_IMAGE, int FROM, int TO, int THREADS>
struct InFlight {
    static constexpr int COUNT = ceil_div((TO - FROM) * PIECES_PER_IMAGE, THREADS);
    uint4 held[COUNT > 0 ? COUNT : 1];

    // `images[i]` is piece i.
    template <typename Pieces>
    __device__ __forceinline__ void fetch(Pieces images, int count) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            int piece = FROM * PIECES_PER_IMAGE + i * THREADS + threadIdx.x;
            held[i] = piece < min(TO, count) * PIECES_PER_IMAGE ? load_once(&images[piece]) : make_uint4(0, 0, 0, 0);
        }
    }
    // Hands each piece and its number to `store`.
    template <typename Store>
    __device__ __forceinline__ void store(Store store) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            int piece = FROM * PIECES_PER_IMAGE + i * THREADS + threadIdx.x;
            if (piece < TO * PIECES_PER_IMAGE) store(piece, held[i]);
        }
    }
};
