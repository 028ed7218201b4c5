// Kernels that tell the host through its own memory when the logits are there.
//
// This stands behind the source of a variant of `lenet.kernels`. `persistent.py` makes that source's kernel a function,
// `network`, which says whether the block wrote the logits.
//
// `logits` is in the host's memory, at the head of a mailbox of 4-byte words:
//
//      0-9   the logits
//     15     the number of the answer, stored after the logits (release, for the whole system)
//     16     the number of the request, or STOP
//     32     nanoseconds after which a kernel that waits for a request ends
//
// Requests have the numbers 1, 2 and so on. The host makes one when it has the answer to the last. Of blocks that share an
// image the first alone looks at the host's memory, and tells the others: looks of several multiprocessors at one place
// there wait for one another. All end together.
//
// Memory order and instructions: PTX ISA, https://docs.nvidia.com/cuda/parallel-thread-execution/ ("Memory Consistency
// Model", mbarrier.inval).
//
// As in common.cuh, the tests' emulator gives what stands between the #ifndef lines.
//
// Macros: SERVE (answer requests until STOP, or until none comes for too long; else answer once, with the number 1),
// NETWORK (else an answer takes no work: the floor), FLAG (store the answer's number; else the host sees by the logits that
// they are there, and no store waits for another).

constexpr int RESPONSE = 15, REQUEST = 16, PATIENCE = 32;
constexpr unsigned STOP = ~0u;

#ifndef LENET_HOST_EMULATOR

// For the whole system, and for the blocks of this GPU.
__device__ __forceinline__ void store_release(unsigned* word, unsigned value) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}
__device__ __forceinline__ unsigned load_acquire(const unsigned* word) {
    unsigned value;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}
__device__ __forceinline__ void store_release_here(unsigned* word, unsigned value) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}
__device__ __forceinline__ unsigned load_acquire_here(const unsigned* word) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}
__device__ __forceinline__ unsigned long long nanoseconds() {
    unsigned long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

// Ends the life of an mbarrier, so that another can begin there.
__device__ __forceinline__ void end(Mbarrier* mbarrier) {
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(mbarrier->address()) : "memory");
#endif
}

#endif  // LENET_HOST_EMULATOR

// Waits for a request. False: the host wants no more, or has asked for nothing in `patience` nanoseconds.
__device__ __forceinline__ bool wait_for_request(const unsigned* words, unsigned number, unsigned patience) {
    unsigned long long began = nanoseconds();
    while (nanoseconds() - began < patience) {
        unsigned found = load_acquire(words + REQUEST);
        if (found == number) return true;
        if (found == STOP) return false;
    }
    return false;
}

// Where the source has its one mbarrier, in bytes, and in the workspace what the first block tells the others: 0 at first.
#ifdef PARTS
using Parameter = uint4;
constexpr int SHARING = 1, TOLD_AT = 0;
constexpr int MBARRIER_AT = 16 * MBARRIERS_AT;
static_assert(!BULK || APART, "there is more than one mbarrier");
#else
using Parameter = float;
constexpr int SHARING = BLOCKS, TOLD_AT = COUNTER_AT + 1;
constexpr int MBARRIER_AT = 4 * MBARRIERS_AT;
static_assert(BLOCKS > 1, "there is more than one mbarrier");
#endif

__device__ __forceinline__ void end_mbarrier() {
    SHARED_MEMORY(memory);
    if (BULK) end(reinterpret_cast<Mbarrier*>(reinterpret_cast<char*>(memory) + MBARRIER_AT));
}

// A thread's wait for a request. False: the kernel is to end.
__device__ __forceinline__ bool is_asked(const unsigned* words, unsigned number, unsigned patience, float* workspace) {
    unsigned* told = reinterpret_cast<unsigned*>(workspace) + TOLD_AT;
    if (SHARING > 1 && blockIdx.x > 0) {
        unsigned found;
        do found = load_acquire_here(told);
        while (found != number && found != STOP);
        return found == number;
    }
    bool asked = wait_for_request(words, number, patience);
    if (SHARING > 1) store_release_here(told, asked ? number : STOP);
    return asked;
}

// Of blocks that share an image the one that answers has read what all of them left, and only then the host asks again.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    lenet(const void* images, const Parameter* parameters, float* logits, int batch, float* workspace) {
    unsigned* words = reinterpret_cast<unsigned*>(logits);
    unsigned patience = SERVE && threadIdx.x == 0 ? load_acquire(words + PATIENCE) : 0;
    for (unsigned number = 1;; ++number) {
        if (SERVE) {
            bool asked = threadIdx.x == 0 && is_asked(words, number, patience, workspace);
            if (!__syncthreads_or(asked)) return;
        }
        bool wrote = NETWORK ? network(images, parameters, logits, batch, workspace) : blockIdx.x == 0;
        __syncthreads();
        if (threadIdx.x == 0) {
            if (SERVE && NETWORK) end_mbarrier();
            if (wrote && FLAG) store_release(words + RESPONSE, number);
        }
        if (!SERVE) return;
    }
}
