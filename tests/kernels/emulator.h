// Runs one block of a CUDA kernel after another on the CPU: each thread is a fibre, and waits at barriers for the others.
//
// It gives what lenet/kernels/common.cuh leaves to a GPU. Shared memory starts as NaNs, and an asynchronous copy happens
// as late as it may: when its group is waited for, or its mbarrier, which must have begun. Memory ends at a page that
// cannot be touched. The macro EMULATED_BULK says whether copies are BULK. What this cannot show
// are races (fibres run one at a time) and how tensor cores round inside a product.

#define LENET_HOST_EMULATOR

#include <sys/mman.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define SHARED_MEMORY(name) uint4* name = emulator::shared

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
constexpr int min(int a, int b) { return a < b ? a : b; }
constexpr unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }

struct Index { unsigned x; };
static Index threadIdx, blockIdx, gridDim;

namespace emulator {

constexpr size_t STACK = 64 * 1024;

struct Barrier {
    int arrived = 0, generation = 0;
};

struct Copy {
    void* to;
    const void* from;
};

struct Fibre {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
    bool done = false;
};

struct Lane {  // what a lane shows to its warp
    unsigned words[6];
    const void* pointer;
    float value;
};
struct Warp {
    Barrier barrier;
    Lane lanes[2][32];  // one set is read while the next is written
    int turn[32] = {};
};

struct BulkCopy {
    void* to;
    const void* from;
    size_t bytes;
    unsigned asked;  // copies so far
};

static uint4* shared;
static std::map<const void*, BulkCopy> bulk_copies;  // of the block's mbarriers; of 0 bytes where it came
static bool misused;                                 // an mbarrier was waited for or begun when it must not be
static std::vector<Fibre> fibres;
static std::vector<Warp> warps;
static Barrier block_barrier;
static ucontext_t scheduler;

inline Fibre& self() { return fibres[threadIdx.x]; }
inline void yield() {
    int thread = threadIdx.x;
    swapcontext(&fibres[thread].context, &scheduler);
}
inline void wait(Barrier& barrier, int count) {
    int generation = barrier.generation;
    if (++barrier.arrived == count) {
        barrier.arrived = 0;
        ++barrier.generation;
    }
    while (barrier.generation == generation) yield();
}

// Shows `mine` to the warp and returns all lanes' in turn.
inline const Lane* exchange(const Lane& mine) {
    Warp& warp = warps[threadIdx.x / 32];
    int lane = threadIdx.x % 32, turn = warp.turn[lane]++ % 2;
    warp.lanes[turn][lane] = mine;
    wait(warp.barrier, 32);
    return warp.lanes[turn];
}

struct Guarded {  // `bytes` of memory, of 0xFF, that end where a fault begins
    char *mapping, *begin;
    size_t length;
    explicit Guarded(size_t bytes) {
        const size_t page = 4096;
        length = (bytes + page - 1) / page * page + page;
        mapping = static_cast<char*>(mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        mprotect(mapping + length - page, page, PROT_NONE);
        begin = mapping + length - page - bytes;
        memset(begin, 0xFF, bytes);
    }
    ~Guarded() { munmap(mapping, length); }
};

inline float bits_to_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
inline unsigned float_to_bits(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return bits;
}
inline float half(unsigned short bits) {
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float value = exponent == 31 ? (mantissa ? NAN : INFINITY)
                  : exponent     ? std::ldexp(1024.0f + mantissa, exponent - 25)
                                 : std::ldexp(float(mantissa), -24);
    return bits & 0x8000 ? -value : value;
}
inline unsigned short to_half(float value) {  // to nearest even: `nearbyint` in units of the last place
    unsigned short sign = std::signbit(value) ? 0x8000 : 0;
    float size = std::fabs(value);
    if (std::isnan(value)) return 0x7FFF;
    if (size >= 65520.0f) return sign | 0x7C00;
    int exponent = size < std::ldexp(1.0f, -14) ? -14 : std::ilogb(size);
    unsigned units = unsigned(std::nearbyint(std::ldexp(size, 10 - exponent)));  // 2048 carries into the exponent
    return sign | (exponent == -14 && units < 1024 ? units : ((exponent + 14) << 10) + units);
}
inline float bfloat(unsigned short bits) { return bits_to_float(unsigned(bits) << 16); }
inline unsigned short to_bfloat(float value) {
    unsigned bits = float_to_bits(value);
    if (std::isnan(value)) return 0x7FFF;
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::block_barrier, int(emulator::fibres.size())); }
inline void __syncwarp() { emulator::wait(emulator::warps[threadIdx.x / 32].barrier, 32); }
inline void sync_part(int part, int threads) {
    static emulator::Barrier parts[16];
    emulator::wait(parts[part], threads);
}
inline int __syncthreads_or(int mine) {
    static int any = 0;
    any |= mine;
    __syncthreads();
    int all = any;
    __syncthreads();
    any = 0;
    __syncthreads();
    return all;
}
inline float __uint_as_float(unsigned bits) { return emulator::bits_to_float(bits); }
inline unsigned __float_as_uint(float value) { return emulator::float_to_bits(value); }
inline float __saturatef(float value) { return value > 0 ? std::fmin(value, 1.0f) : 0.0f; }  // of a NaN 0

inline void copy_async(void* to, const void* from) { emulator::self().open.push_back({to, from}); }
inline void commit_copies() {
    emulator::Fibre& fibre = emulator::self();
    fibre.groups.push_back(std::move(fibre.open));
    fibre.open.clear();
}
template <int PENDING>
inline void wait_for_copies() {
    auto& groups = emulator::self().groups;
    while (int(groups.size()) > PENDING) {
        for (const emulator::Copy& copy : groups.front()) memcpy(copy.to, copy.from, 16);
        groups.erase(groups.begin());
    }
}

constexpr bool BULK = EMULATED_BULK;
struct Mbarrier {
    float guard[2];  // a real one is not to be written over: NaNs as long as nobody does

    void init() {
        emulator::misused |= emulator::bulk_copies.count(this) > 0;
        emulator::bulk_copies[this] = {};
    }
    void copy(uint4* to, const uint4* from, int chunks) {
        auto found = emulator::bulk_copies.find(this);
        if (found == emulator::bulk_copies.end() || found->second.bytes) {
            emulator::misused = true;
            return;
        }
        found->second = {to, from, size_t(chunks) * 16, found->second.asked + 1};
    }
    void init_and_copy(uint4* to, const uint4* from, int chunks) {
        init();
        copy(to, from, chunks);
    }
    void wait(unsigned phase = 0) {
        auto found = emulator::bulk_copies.find(this);
        if (found == emulator::bulk_copies.end() || found->second.asked % 2 == phase || !std::isnan(guard[0]) ||
            !std::isnan(guard[1])) {
            emulator::misused = true;
            return;
        }
        memcpy(found->second.to, found->second.from, found->second.bytes);
        found->second.bytes = 0;
    }
};

inline bool is_last_of(unsigned count, unsigned* counter) {
    *counter = (*counter + 1) % count;
    return *counter == 0;
}
inline uint4 load_once(const uint4* from) { return *from; }
template <int INDEX>
inline float centred(unsigned word) { return float(word >> 8 * INDEX & 255) - 128.0f; }
inline unsigned pack_half(float low, float high) {
    return emulator::to_half(low) | unsigned(emulator::to_half(high)) << 16;
}
inline unsigned pack_bfloat(float low, float high) {
    return emulator::to_bfloat(low) | unsigned(emulator::to_bfloat(high)) << 16;
}
inline float half_to_float(unsigned short bits) { return emulator::half(bits); }
inline float from_lane_xor(float value, int mask) {
    emulator::Lane mine{};
    mine.value = value;
    return emulator::exchange(mine)[threadIdx.x % 32 ^ mask].value;
}
inline void load_matrices(unsigned (&to)[4], const void* row) {
    emulator::Lane mine{};
    mine.pointer = row;
    const emulator::Lane* lanes = emulator::exchange(mine);
    for (int i = 0; i < 4; ++i) {
        const char* from = static_cast<const char*>(lanes[8 * i + threadIdx.x % 32 / 4].pointer);
        memcpy(&to[i], from + threadIdx.x % 4 * 4, 4);
    }
}
// The layout of fragments is the PTX ISA's, "Matrix Fragments for mma.m16n8k16 with floating point type".
template <bool IS_BFLOAT>
inline void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const emulator::Lane* lanes = emulator::exchange({{a[0], a[1], a[2], a[3], b0, b1}, nullptr, 0});
    auto element = [](unsigned word, int upper) {
        unsigned short bits = upper ? word >> 16 : word & 0xFFFF;
        return IS_BFLOAT ? emulator::bfloat(bits) : emulator::half(bits);
    };
    int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; ++i) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        double sum = sums[i];
        for (int k = 0; k < 16; ++k) {
            unsigned left = lanes[row % 8 * 4 + k % 8 / 2].words[row / 8 + k / 8 * 2];
            unsigned right = lanes[column * 4 + k % 8 / 2].words[4 + k / 8];
            sum += double(element(left, k % 2)) * element(right, k % 2);
        }
        sums[i] = float(sum);
    }
}
// As "Matrix Fragments for mma.m16n8k32", of 8-bit integers.
inline void multiply_add_int8(int (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const emulator::Lane* lanes = emulator::exchange({{a[0], a[1], a[2], a[3], b0, b1}, nullptr, 0});
    int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; ++i) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 32; ++k) {
            unsigned left = lanes[row % 8 * 4 + k % 16 / 4].words[row / 8 + k / 16 * 2];
            unsigned right = lanes[column * 4 + k % 16 / 4].words[4 + k / 16];
            sums[i] += int(int8_t(left >> k % 4 * 8)) * int8_t(right >> k % 4 * 8);
        }
    }
}
inline void multiply_add_int8(int (&sums)[4], uint2 a, unsigned b) { multiply_add_int8(sums, {a.x, a.y, 0, 0}, b, 0); }
inline unsigned low_bytes(unsigned a, unsigned b, unsigned c, unsigned d) {
    return (a & 255) | (b & 255) << 8 | (c & 255) << 16 | d << 24;
}
inline unsigned to_e4m3(float value) {  // to nearest even, in units of the last place; 448 at most
    float size = std::fmin(std::fabs(value), 448.0f);
    if (std::isnan(value)) return 0x7F;
    int exponent = size < std::ldexp(1.0f, -6) ? -6 : std::ilogb(size);
    unsigned units = unsigned(std::nearbyint(std::ldexp(size, 3 - exponent)));  // 16 carries into the exponent
    return (std::signbit(value) ? 0x80 : 0) | (exponent == -6 && units < 8 ? units : ((exponent + 6) << 3) + units);
}
template <bool CUT>
inline unsigned pack_e4m3(float a, float b, float c, float d) {
    auto number = [](float value) { return to_e4m3(CUT && value < 0 ? 0.0f : value); };
    return low_bytes(number(a), number(b), number(c), number(d));
}
inline uint2 unpack_e4m3(unsigned word) {  // fp16 has e4m3's bits a place lower and an exponent's bias 8 higher
    auto number = [&](int i) {
        unsigned bits = word >> 8 * i & 255;
        float value = emulator::half((bits & 0x80) << 8 | (bits & 0x7F) << 7) * 256.0f;
        return (bits & 0x7F) == 0x7F ? NAN : value;
    };
    return make_uint2(pack_half(number(0), number(1)), pack_half(number(2), number(3)));
}
