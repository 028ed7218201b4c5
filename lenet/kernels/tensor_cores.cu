// LeNet in one kernel, of the layers of tensor_layers.cuh: a block takes IMAGES images through the network in shared memory.
//
// Where images are STAGED they come GROUP at a time in bulk copies, to where fc1's weights lie later. The block rounds them
// to 16 bits into the pixels' place, and conv1 runs on them while the next come. A block takes its share of the batch in
// turns of IMAGES:
//
//     fc1's place   | images | weights, copied as each group leaves      | the next turn's images
//     pixels' place         | pixels      | fc2's and fc3's weights
//                   | conv1, a group after the other | conv2 | fc1 | fc2 | fc3

// The block copies weights to where they are RESIDENT, unless they came with the images (APART); as one group of copies.
__device__ __forceinline__ void copy_late(Mbarrier& mbarrier, uint4* shared, const uint4* global, int chunks) {
    if (RESIDENT && !APART) {
        if (!BULK)
            copy_block(shared, global, chunks, THREADS);
        else if (threadIdx.x == 0)
            mbarrier.init_and_copy(shared, global, chunks);
    }
    commit_copies();
}

// What lies where in shared memory.
struct Layout {
    uint4* shared;
    const uint4* weights2 = shared + WEIGHTS1;
    const float* bias = reinterpret_cast<const float*>(weights2 + WEIGHTS2);
    const float* scale = bias + BIASES;
    uint4 *features = shared + FEATURES_AT, *hidden1 = shared + HIDDEN1_AT, *hidden2 = shared + HIDDEN2_AT;
    uint4* maps = shared + MAPS_AT;
    unsigned short* pixels = reinterpret_cast<unsigned short*>(shared + PIXELS_AT);
    Mbarrier* mbarriers = reinterpret_cast<Mbarrier*>(shared + MBARRIERS_AT);

    __device__ __forceinline__ void conv1(const Conv1& conv1, int tile) const {
        conv1.tile(tile, reinterpret_cast<const unsigned*>(pixels), reinterpret_cast<unsigned short*>(maps));
    }
};

// The layers behind conv1. `late` runs when the pixels are done with, `ready` returns when a layer's weights are there, and
// `free` runs when fc1 is done with its own.
template <typename Late, typename Ready, typename Free>
__device__ __forceinline__ void classify_maps(const Layout& at, const uint4* parameters, float* logits, int count, Late late,
                                              Ready ready, Free free) {
    int warp = threadIdx.x / 32;
    __syncthreads();  // all maps are there, and the pixels are free

    late();
#pragma unroll 1
    for (int unit = warp; unit * 8 < (STAGED ? count : IMAGES) * POOLED2; unit += WARPS)
        conv2(unit, at.weights2, at.bias + BIAS2, at.scale[1], at.maps, reinterpret_cast<unsigned short*>(at.features));
    ready(3);
    __syncthreads();  // all features are there, and the maps are free

    const uint4* weights3 = RESIDENT ? at.shared + FC1_AT : parameters + FC1;
    const uint4* weights4 = RESIDENT ? at.shared + FC2_AT : parameters + FC2;
    float sums[4];
    if (warp < ROWS3) connect<0, HALF3, STRIDE3>(sums, weights3 + warp * STEPS3 * PARTS * FRAGMENT, at.features);
    if (SHARED3) {  // a second warp has the other inputs
        float4* others = reinterpret_cast<float4*>(at.shared + SUMS3_AT) + threadIdx.x % (32 * ROWS3);
        if (warp / ROWS3 == 1) {
            connect<HALF3, STEPS3, STRIDE3>(sums, weights3 + warp % ROWS3 * STEPS3 * PARTS * FRAGMENT, at.features);
            *others = make_float4(sums[0], sums[1], sums[2], sums[3]);
        }
        __syncthreads();  // the second warps' sums are there
        if (warp < ROWS3) sums[0] += others->x, sums[1] += others->y, sums[2] += others->z, sums[3] += others->w;
    }
    free();
    if (warp < ROWS3) store_hidden<HIDDEN1, STRIDE4>(sums, warp, at.bias + BIAS3, at.scale[2], at.hidden1);
    __syncthreads();  // all of hidden1 is there
    ready(4);
    if (warp < ROWS4) {
        connect<0, STEPS4, STRIDE4>(sums, weights4 + warp * STEPS4 * PARTS * FRAGMENT, at.hidden1);
        store_hidden<HIDDEN2, STRIDE5>(sums, warp, at.bias + BIAS4, at.scale[3], at.hidden2);
    }
    __syncthreads();  // all of hidden2 is there
    if (warp == 0) classify(weights4 + WEIGHTS4, at.hidden2, at.bias + BIAS5, at.scale[4], logits, count);
}

__device__ __forceinline__ void run_staged(const Layout& at, const uint4* images, const uint4* parameters, float* logits,
                                           int batch) {
    // Of constants, the part of fc1's weights that no image lies on, and fc2's with fc3's; of groups of images, and of the
    // parts of fc1's weights that take their places.
    Mbarrier *constants = at.mbarriers, *rest = constants + 1, *late = rest + 1, *staged = late + 1, *parts = staged + STAGES;
    uint4* stages = at.shared + FC1_AT;
    int warp = threadIdx.x / 32, share = ceil_div(batch, gridDim.x);
    int first = blockIdx.x * share, end = min(batch, first + share);
    if (first >= end) return;
    auto copy_images = [&](int from_here) {
        int count = min(IMAGES, end - from_here);
        const uint4* from = images + static_cast<long long>(from_here) * PIECES;
#pragma unroll 1
        for (int i = 0; i * GROUP < count; ++i)
            staged[i].copy(stages + i * STAGE, from + i * STAGE, min(GROUP, count - i * GROUP) * PIECES);
    };
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2 * STAGES + 3; ++i) constants[i].init();
        constants->copy(at.shared, parameters, CONSTANTS);
        copy_images(first);
        constexpr int FROM = STAGES * STAGE;
        rest->copy(stages + FROM, parameters + FC1 + FROM, WEIGHTS3 - FROM);
    }
    for (int i = threadIdx.x; i < IMAGES * MAP_CHUNKS; i += THREADS) at.maps[i].w = 0;  // channels that no map fills
    __syncthreads();  // `init` is seen
    constants->wait();
    unsigned phase = 0;
#pragma unroll 1
    for (; first < end; first += IMAGES, phase ^= 1) {
        int count = min(IMAGES, end - first), tile = warp;
        Conv1 conv1;
        conv1.load(at.shared, at.bias + BIAS1, at.scale[0]);
#pragma unroll 1
        for (int i = 0; i < STAGES; ++i) {
            if (i * GROUP < count) staged[i].wait(phase);
            uint4 held[ceil_div(STAGE, THREADS)];
#pragma unroll
            for (int j = 0; j < ceil_div(STAGE, THREADS); ++j) {
                unsigned piece = j * THREADS + threadIdx.x;
                if (STAGE % THREADS == 0 || piece < STAGE) held[j] = stages[i * STAGE + piece];
            }
            StorePixels store{at.pixels + i * GROUP * CHANNELS * PLANE};
#pragma unroll
            for (int j = 0; j < ceil_div(STAGE, THREADS); ++j) {
                unsigned piece = j * THREADS + threadIdx.x;
                if (STAGE % THREADS == 0 || piece < STAGE) store(piece, held[j]);
            }
            __syncthreads();  // the group's pixels are there, and its stage is free
            if (threadIdx.x == 0) parts[i].copy(stages + i * STAGE, parameters + FC1 + i * STAGE, STAGE);
            int windows = min((i + 1) * GROUP, count) * POOLED1;
            // A round of the warps waits for the images of its last tile.
#pragma unroll 1
            for (; i + 1 == STAGES ? tile * 16 < windows : (tile - warp + WARPS) * 16 <= windows; tile += WARPS)
                at.conv1(conv1, tile);
        }
        auto copy_late = [&] {
            if (threadIdx.x == 0) late->copy(at.shared + FC2_AT, parameters + FC2, LATE);
        };
        auto ready = [&](int layer) {
            if (layer == 4) {
                late->wait(phase);
                return;
            }
            rest->wait();
            for (int i = 0; i < STAGES; ++i) parts[i].wait(phase);
        };
        auto free = [&] {
            if (threadIdx.x == 0 && first + IMAGES < end) copy_images(first + IMAGES);
        };
        classify_maps(at, parameters, logits + static_cast<long long>(first) * CLASSES, count, copy_late, ready, free);
    }
}

// A block's images, fewer than IMAGES where the batch ends.
__device__ __forceinline__ void run(const Layout& at, const uint4* from, const uint4* parameters, float* logits, int count) {
    int warp = threadIdx.x / 32;
    // Groups of copies that are not BULK: the constants; fc1; fc2 and fc3 in their time.
    InFlight<PIECES, 0, FIRST_IMAGES, THREADS> early;
    InFlight<PIECES, FIRST_IMAGES, IMAGES, THREADS> late_images;
    early.fetch(from, count);
    if (APART && threadIdx.x == 0) at.mbarriers[0].init_and_copy(at.shared + FC1_AT, parameters + FC1, WEIGHTS3 + LATE);
    copy_block(at.shared, parameters, CONSTANTS, THREADS);
    commit_copies();
    for (int i = threadIdx.x; i < PARTS * IMAGES * MAP_CHUNKS; i += THREADS) at.maps[i].w = 0;  // channels that no map fills
    early.store(StorePixels{at.pixels});
    late_images.fetch(from, count);
    wait_for_copies<0>();
    __syncthreads();  // the first images and the constants are there
    // Only now: what is wanted later may not stand in the images' way.
    copy_late(at.mbarriers[0], at.shared + FC1_AT, parameters + FC1, WEIGHTS3);

    Conv1 conv1;
    conv1.load(at.shared, at.bias + BIAS1, at.scale[0]);
    constexpr int TILES = ceil_div(IMAGES * POOLED1, 16);
    constexpr int EARLY_ROUNDS = FIRST_IMAGES * POOLED1 / 16 / WARPS;
#pragma unroll 1
    for (int round = 0; round < ceil_div(TILES, WARPS); ++round) {
        if (FIRST_IMAGES < IMAGES && round == EARLY_ROUNDS) {
            late_images.store(StorePixels{at.pixels});
            __syncthreads();  // the other images are there
        }
        int tile = round * WARPS + warp;
        if (tile < TILES) at.conv1(conv1, tile);
    }
    auto late = [&] { copy_late(at.mbarriers[1], at.shared + FC2_AT, parameters + FC2, LATE); };
    auto ready = [&](int layer) {
        if (layer == 3) wait_for_copies<0>();
        if (RESIDENT && BULK && (layer == 3 || !APART)) at.mbarriers[layer - 3].wait();
    };
    classify_maps(at, parameters, logits, count, late, ready, [] {});
}

// images: (batch, 3, 32, 32), float32 or uint8, aligned to 16 bytes; logits: float32 (batch, 10).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    lenet(const void* __restrict__ images, const uint4* __restrict__ parameters, float* __restrict__ logits, int batch,
          float* /* workspace, of fp32.cu alone */) {
    SHARED_MEMORY(shared);
    Layout at{shared};
    if constexpr (STAGED) {
        run_staged(at, static_cast<const uint4*>(images), parameters, logits, batch);
    } else {
        int first = blockIdx.x * IMAGES, count = min(IMAGES, batch - first);
        run(at, static_cast<const uint4*>(images) + static_cast<long long>(first) * PIECES, parameters,
            logits + static_cast<long long>(first) * CLASSES, count);
    }
}
