// LeNet in one kernel, of the layers of fp32_layers.cuh.
//
// The fully connected layers' weights are as many bytes as all else together (235 kB a block, from L2). Where shared
// memory is large enough (RESIDENT) each warp copies its own slice in the background (in BULK where the GPU can), to its
// place at the end of shared memory, as soon as what lies there is not needed any more: at once, after conv1 (pixels), or
// after conv2 (maps):
//
//     | constants | features, hidden | maps        | pixels                           | free    |
//                                      |19|18|..|15|14| ...                         | 4| .. |0|   slices
//
// A block of 8 images takes its share of the batch in turns. The next turn's images are copied while fc3 runs.
//
// Where there are multiprocessors to spare, an image is spread over BLOCKS = 5 blocks, a row of conv2's windows each. Rows
// of maps that two of them see both compute (30 for 14); of conv2 and fc1 each has a fifth. No block waits for another:
//
//     block  rows of pixels, maps   features         fc1
//       0        0-15     0-5       row 0, 16 maps   80 inputs x 120 outputs  --+
//       1        4-19     2-7       row 1, 16 maps   80 inputs x 120 outputs  --+
//       2        8-23     4-9       row 2, 16 maps   80 inputs x 120 outputs  --+-->  the block that is there last adds up
//       3       12-27     6-11      row 3, 16 maps   80 inputs x 120 outputs  --+     5 x 120 sums, and does fc2 and fc3
//       4       16-31     8-13      row 4, 16 maps   80 inputs x 120 outputs  --+
//
// A warp then has just 4 of fc1's inputs: their weights wait in registers from the start, and fc2's in shared memory.

constexpr bool TURNS = IMAGES == 8;
constexpr int SHARES = WARPS;  // of the inputs of the fully connected layers

// Inputs of fc1 (some early, some late) and of fc2 that a warp multiplies. EARLY is the largest multiple of
// `multiply_slice`'s step of 4 with which the slices of 20 warps fit behind the maps of 8 images in 227 KB.
constexpr int EARLY = 16, LATE = FEATURES / SHARES - EARLY, DEPTH2 = HIDDEN1 / SHARES;
constexpr int SLICE = EARLY * HIDDEN1, LATE_SLICE = LATE * HIDDEN1, SLICE2 = DEPTH2 * HIDDEN2;
constexpr int DEPTH_HERE = FEATURES_HERE / SHARES;  // of fc1, all at once, where blocks share an image

// Shared memory, in floats.
constexpr int FEATURES_AT = CONSTANTS, MAPS_AT = FEATURES_AT + IMAGES * FEATURES_HERE;
constexpr int PIXELS_AT = MAPS_AT + IMAGES * MAPS, FREE_AT = PIXELS_AT + IMAGES * PIXELS_HERE;
constexpr int HIDDEN1_AT = MAPS_AT, HIDDEN2_AT = HIDDEN1_AT + IMAGES * HIDDEN1;  // where conv2 has read the maps
constexpr int ALL = SHARED_BYTES / 16 * 4;
constexpr int FC2_AT = PIXELS_AT + SHARES * HIDDEN1;  // where blocks share an image: all of fc2, behind fc1's sums
constexpr int MBARRIERS = BLOCKS > 1 ? 4 : BULK ? 6 * SHARES : 0;  // of fc2; of a warp's three slices: two floats each
constexpr int NEEDED = BLOCKS > 1 ? FC2_AT + HIDDEN1 * HIDDEN2 + MBARRIERS : FREE_AT;
static_assert(NEEDED <= ALL, "shared memory is too small for so many images");
constexpr int MBARRIERS_AT = ALL - MBARRIERS, END = MBARRIERS_AT;
static_assert(MBARRIERS % 4 == 0, "slices are aligned to 16 bytes");

// Where a warp's slices of fc1's weights lie, the early one and the late, and later its partial sums; if not resident, the
// sums alone.
constexpr int SLICES_AT = END - SHARES * SLICE;
constexpr bool DISJOINT = FREE_AT + SHARES * LATE_SLICE <= SLICES_AT;  // all have a place of their own
constexpr int LATE_AT = DISJOINT ? FREE_AT : MAPS_AT;
constexpr bool RESIDENT = BLOCKS == 1 && SLICES_AT >= PIXELS_AT && SLICES_AT >= LATE_AT + SHARES * LATE_SLICE;
constexpr int SLICE_AT = RESIDENT ? END - SLICE : PIXELS_AT, SLICE_STRIDE = RESIDENT ? -SLICE : IMAGES * HIDDEN1;
constexpr int SLICE2_AT = SLICE_AT + IMAGES * HIDDEN1;  // fc2's slice, behind fc1's sums
static_assert(!RESIDENT || IMAGES * HIDDEN1 + SLICE2 <= SLICE, "a slice's place is too small");

// The workspace of an image that blocks share, in floats: each block's sums of fc1, and how many blocks have left theirs.
constexpr int COUNTER_AT = BLOCKS * HIDDEN1, WORKSPACE = COUNTER_AT + 4;

// Adds up the warps' shares, with bias and ReLU.
template <int OUTPUTS>
__device__ __forceinline__ void sum_slices(const float* sums, const float* bias, float* outputs) {
#pragma unroll 1
    for (int i = threadIdx.x; i < IMAGES * OUTPUTS; i += THREADS)
        outputs[i] = fmaxf(add_shares<SHARES, SLICE_STRIDE>(bias[i % OUTPUTS], sums + i), 0.0f);
}

// Leaves the block's sums of fc1 to the block that comes last, and says whether this is the one: threadFenceReduction of
// NVIDIA's CUDA samples (https://github.com/NVIDIA/cuda-samples), with the fences in the atomic operation.
__device__ __forceinline__ bool leave_sums(const float* sums, float* workspace, int block) {
    int i = threadIdx.x;
    if (i < HIDDEN1) workspace[block * HIDDEN1 + i] = add_shares<SHARES, SLICE_STRIDE>(0.0f, sums + i);
    __syncthreads();  // all of the block's sums are written before thread 0 counts the block
    return __syncthreads_or(i == 0 && is_last_of(BLOCKS, reinterpret_cast<unsigned*>(workspace + COUNTER_AT)));
}

// Adds up the blocks' sums, always in the same order: which block is the last changes no bit. Volatile: other
// multiprocessors wrote them.
__device__ __forceinline__ void sum_blocks(const volatile float* workspace, const float* bias, float* outputs) {
    int i = threadIdx.x;
    if (i < HIDDEN1) outputs[i] = fmaxf(add_shares<BLOCKS, HIDDEN1>(bias[i], workspace + i), 0.0f);
}

// A warp copies a slice of weights to where they are RESIDENT.
__device__ __forceinline__ void copy_slice(Mbarrier& mbarrier, float* shared, const float* global, int floats) {
    if (!RESIDENT) return;
    if (BULK) {
        if (threadIdx.x % 32 == 0)
            mbarrier.copy(reinterpret_cast<uint4*>(shared), reinterpret_cast<const uint4*>(global), floats / 4);
        return;
    }
#pragma unroll 1
    for (int i = threadIdx.x % 32 * 4; i < floats; i += 128) copy_async(shared + i, global + i);
}

// A warp waits for its slice: for its mbarrier, or for all but the last PENDING groups of its lanes' copies.
template <int PENDING>
__device__ __forceinline__ void wait_for_slice(Mbarrier& mbarrier, unsigned phase) {
    wait_for_copies<PENDING>();
    __syncwarp();
    if (RESIDENT && BULK) mbarrier.wait(phase);
}

// Bytes pass through registers, where they are widened. Float32 images do so where they are few: cp.async is slow on the
// host's memory, which small blocks may read. A block of 8 has no registers to spare for it.
constexpr bool HELD = BYTES || IMAGES < 8;
static_assert(!HELD || FIRST_IMAGES == IMAGES, "images that pass through registers come all at once");
constexpr int ROW_PIECES = SIZE * (BYTES ? 1 : 4) / 16, CHANNEL_PIECES = ROWS * ROW_PIECES;
constexpr int PIECES = CHANNELS * CHANNEL_PIECES, IMAGE_PIECES = CHANNELS * SIZE * ROW_PIECES;

// The pieces of what the block has of its images, from its first row of pixels on.
struct PixelRows {
    const uint4* images;
    __device__ __forceinline__ const uint4& operator[](int piece) const {
        return images[piece / CHANNEL_PIECES * (SIZE * ROW_PIECES) + piece % CHANNEL_PIECES];
    }
};

__device__ __forceinline__ void copy_pixels(uint4* pixels, const uint4* images, int from, int to) {
#pragma unroll 1
    for (int i = from * PIECES + threadIdx.x; i < to * PIECES; i += THREADS) copy_async(pixels + i, images + i);
}

struct StorePixels {
    float* pixels;
    __device__ __forceinline__ void operator()(int piece, uint4 v) const {
        if (!BYTES) {
            reinterpret_cast<uint4*>(pixels)[piece] = v;
            return;
        }
        float4* to = reinterpret_cast<float4*>(pixels + 16 * piece);
        int first = piece / 2 % 4;  // two lanes each begin elsewhere, to touch all banks
        if (first & 1) v = make_uint4(v.y, v.z, v.w, v.x);
        if (first & 2) v = make_uint4(v.z, v.w, v.x, v.y);
        to[first] = widen(v.x), to[(first + 1) % 4] = widen(v.y);
        to[(first + 2) % 4] = widen(v.z), to[(first + 3) % 4] = widen(v.w);
    }
};

// images: (batch, 3, 32, 32), float32 or uint8, aligned to 16 bytes; logits: float32 (batch, 10); workspace:
// WORKSPACE floats an image where blocks share one, with counters of 0.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    lenet(const void* __restrict__ images, const float* __restrict__ parameters, float* __restrict__ logits, int batch,
          float* workspace) {
    SHARED_MEMORY(memory);
    float* shared = reinterpret_cast<float*>(memory);
    const float *weights1 = shared, *weights2 = weights1 + WEIGHTS1, *bias = weights2 + WEIGHTS2;
    const float* weights5 = bias + BIASES;
    float *features = shared + FEATURES_AT, *hidden1 = shared + HIDDEN1_AT, *hidden2 = shared + HIDDEN2_AT;
    float *maps = shared + MAPS_AT, *pixels = shared + PIXELS_AT;
    int warp = threadIdx.x / 32;
    Mbarrier* mbarriers = reinterpret_cast<Mbarrier*>(shared + MBARRIERS_AT) + (BLOCKS > 1 ? 0 : 3 * warp);

    // The images of the block: its share of the batch in turns, or one turn of IMAGES.
    int block = blockIdx.x % BLOCKS, share = TURNS ? ceil_div(batch, gridDim.x) : IMAGES;
    int first = blockIdx.x / BLOCKS * share, end = min(batch, first + share);
    if (TURNS && first >= end) return;
    int count = min(IMAGES, end - first);
    const uint4* from = static_cast<const uint4*>(images) + static_cast<long long>(first) * IMAGE_PIECES;
    from += block * 4 * ROWS2 * ROW_PIECES;  // two pools
    logits += static_cast<long long>(first) * CLASSES;
    workspace += first * WORKSPACE;

    // Groups of copies: the constants and the first images; the other images; the slices, in their time. Images come
    // first: nothing that is wanted later may stand in their way.
    InFlight<PIECES, 0, IMAGES, THREADS> held;
    auto copy_first = [&] {
        if (!HELD) copy_pixels(reinterpret_cast<uint4*>(pixels), from, 0, min(FIRST_IMAGES, count));
    };
    if (HELD) held.fetch(PixelRows{from}, count);
    copy_first();
    copy_block(memory, reinterpret_cast<const uint4*>(parameters), CONSTANTS / 4, THREADS);
    commit_copies();
    if (RESIDENT && BULK && threadIdx.x % 32 == 0)
        for (int i = 0; i < 3; ++i) mbarriers[i].init();
    float weights3[DEPTH_HERE][4] = {};
    if constexpr (BLOCKS > 1) {
        fetch_slice<DEPTH_HERE, HIDDEN1>(weights3, parameters + FC1 + (block * SHARES + warp) * DEPTH_HERE * HIDDEN1);
        const uint4* weights4 = reinterpret_cast<const uint4*>(parameters + FC2);
        if (!BULK)
            copy_block(memory + FC2_AT / 4, weights4, HIDDEN1 * HIDDEN2 / 4, THREADS);
        else if (threadIdx.x == 0)
            mbarriers[0].init_and_copy(memory + FC2_AT / 4, weights4, HIDDEN1 * HIDDEN2 / 4);
    }
    unsigned phase = 0;
#pragma unroll 1
    while (true) {
        if (HELD) {
            held.store(StorePixels{pixels});
        } else {
            copy_pixels(reinterpret_cast<uint4*>(pixels), from, FIRST_IMAGES, count);
        }
        commit_copies();
        wait_for_copies<1>();
        __syncthreads();  // the constants and the first images are there, and `init` is seen

        float *slice = shared + SLICE_AT + warp * SLICE_STRIDE, *late_slice = shared + LATE_AT + warp * LATE_SLICE;
        float* slice2 = BLOCKS > 1 ? shared + FC2_AT + warp * SLICE2 : shared + SLICE2_AT + warp * SLICE_STRIDE;
        auto copy_when_free = [&](int from_here, int to_here) {
            int at = SLICE_AT + warp * SLICE_STRIDE;
            if (from_here <= at && at < to_here) copy_slice(mbarriers[0], slice, parameters + FC1 + warp * SLICE, SLICE);
        };
        auto copy_late = [&] {
            copy_slice(mbarriers[1], late_slice, parameters + FC1 + SHARES * SLICE + warp * LATE_SLICE, LATE_SLICE);
        };
        copy_when_free(FREE_AT, END);
        if (DISJOINT) copy_late();
        commit_copies();
        int some = TURNS ? count : IMAGES;
#pragma unroll 1
        for (int first_tile = 0; first_tile < some * PLACES * GROUPS; first_tile += THREADS) {
            conv1(first_tile + threadIdx.x, some, weights1, bias + BIAS1, pixels, maps);
            if (FIRST_IMAGES < IMAGES && first_tile == 0) {
                wait_for_copies<1>();
                __syncthreads();  // the other images are there
            }
        }
        __syncthreads();  // all maps are there, and the pixels are free

        copy_when_free(PIXELS_AT, FREE_AT);
        commit_copies();
        int tiles2 = round_up(some, IMAGES == 1 ? 1 : 2) * (WINDOWS2 / WINDOWS_A_THREAD) * MAPS2 * HALVES;
#pragma unroll 1
        for (int tile = threadIdx.x; tile < tiles2; tile += THREADS)
            conv2(tile, some, weights2, bias + BIAS2, maps, features);
        __syncthreads();  // all features are there, and the maps are free

        Sums sums = {};
        if constexpr (BLOCKS > 1) {
            multiply<DEPTH_HERE, FEATURES_HERE>(sums, weights3, features + warp * DEPTH_HERE);
            store_sums<HIDDEN1>(sums, slice);
            wait_for_copies<0>();  // before any block ends
            if (BULK) mbarriers[0].wait();
            __syncthreads();  // all warps' sums and fc2's weights are there
            if (!leave_sums(shared + SLICE_AT, workspace, block)) return;
            sum_blocks(workspace, bias + BIAS3, hidden1);
        } else {
            if (!DISJOINT) copy_late();
            commit_copies();
            wait_for_slice<1>(mbarriers[0], phase);
            multiply_slice<EARLY, 4, FEATURES, HIDDEN1>(
                sums, RESIDENT ? slice : parameters + FC1 + warp * SLICE, features + warp * EARLY);
            __syncwarp();  // fc2's weights and the sums lie where the weights did
            copy_slice(mbarriers[2], slice2, parameters + FC2 + warp * SLICE2, SLICE2);
            commit_copies();
            wait_for_slice<1>(mbarriers[1], phase);
            multiply_slice<LATE, 4, FEATURES, HIDDEN1>(
                sums, RESIDENT ? late_slice : parameters + FC1 + SHARES * SLICE + warp * LATE_SLICE,
                features + SHARES * EARLY + warp * LATE);
            store_sums<HIDDEN1>(sums, slice);
            __syncthreads();  // all warps' sums are there
            sum_slices<HIDDEN1>(shared + SLICE_AT, bias + BIAS3, hidden1);
        }
        wait_for_copies<0>();
        if (RESIDENT && BULK) mbarriers[2].wait(phase);
        __syncthreads();  // hidden1 is there, and its sums are free
        Sums sums2 = {};
        multiply_slice<DEPTH2, 2, HIDDEN1, HIDDEN2>(
            sums2, RESIDENT || BLOCKS > 1 ? slice2 : parameters + FC2 + warp * SLICE2, hidden1 + warp * DEPTH2);
        store_sums<HIDDEN2>(sums2, slice);
        __syncthreads();  // all warps' sums are there
        sum_slices<HIDDEN2>(shared + SLICE_AT, bias + BIAS4, hidden2);
        __syncthreads();  // hidden2 is there, and the sums, where the next images go, are free
        int images_here = count;
        first += IMAGES, from += IMAGES * IMAGE_PIECES, phase ^= 1;
        count = min(IMAGES, end - first);
        if (TURNS) {
            copy_first();
            commit_copies();
        }
        classify(weights5, bias + BIAS5, hidden2, logits, images_here);
        if (!TURNS || count <= 0) break;
        if (HELD) held.fetch(PixelRows{from}, count);
        logits += IMAGES * CLASSES;
    }
}
