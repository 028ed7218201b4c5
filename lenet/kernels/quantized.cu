// The quantised LeNet in one kernel, of the layers of quantized_layers.cuh: a block takes IMAGES images through the network
// in shared memory.

// Each image has warps of its own until conv1 is done: they begin when it is there, whatever the others do.
constexpr int WARPS_AN_IMAGE = WARPS / IMAGES, THREADS_AN_IMAGE = 32 * WARPS_AN_IMAGE;
static_assert(WARPS_AN_IMAGE * IMAGES == WARPS, "each image wants as many warps");

// Shared memory, in chunks of 16 bytes.
constexpr int PIXEL_CHUNKS = PIXELS / 16;
constexpr int ACTIVATIONS = 8 * (STRIDE3 + STRIDE4 + STRIDE5) + IMAGES * (MAP_CHUNKS + PIXEL_CHUNKS);
// The fully connected layers' weights are in shared memory if there is room. The last chunk is two mbarriers'.
constexpr bool RESIDENT = ALL + ACTIVATIONS + 1 <= SHARED_BYTES / 16;
constexpr int COPIED = RESIDENT ? ALL : CONSTANTS;
constexpr int FEATURES_AT = COPIED, HIDDEN1_AT = FEATURES_AT + 8 * STRIDE3, HIDDEN2_AT = HIDDEN1_AT + 8 * STRIDE4;
constexpr int MAPS_AT = HIDDEN2_AT + 8 * STRIDE5, PIXELS_AT = MAPS_AT + IMAGES * MAP_CHUNKS;
constexpr int MBARRIERS_AT = PIXELS_AT + IMAGES * PIXEL_CHUNKS;
static_assert(MBARRIERS_AT + 1 <= SHARED_BYTES / 16, "shared memory is too small for so many images");
static_assert(WARPS >= 2 * ROWS3, "fc1 wants 16 warps");
static_assert(MAP_CHUNKS + PIXEL_CHUNKS >= 32 * ROWS3, "fc1's sums do not fit where the maps and the pixels were");

constexpr int PIECES = PIXELS * (BYTES ? 1 : 4) / 16;

// An image's scalings: of float32 all are the same.
struct PixelScalings {
    float2 of[CHANNELS];

    __device__ __forceinline__ explicit PixelScalings(const uint4* parameters) {
        for (int i = 0; i < CHANNELS; ++i) of[i] = reinterpret_cast<const float2*>(parameters)[i];
    }
    __device__ __forceinline__ unsigned word(float4 v, int channel) const {
        float2 its = !BYTES || channel == 0 ? of[0] : channel == 1 ? of[1] : of[2];
        return quantize<false>(fmaf(v.x, its.x, its.y), fmaf(v.y, its.x, its.y), fmaf(v.z, its.x, its.y),
                               fmaf(v.w, its.x, its.y));
    }
};

// A warps' image on its way from global memory, through a thread's registers, to shared memory.
struct ImagePieces {
    static constexpr int COUNT = ceil_div(PIECES, THREADS_AN_IMAGE);
    uint4 held[COUNT];

    __device__ __forceinline__ void fetch(const uint4* pieces) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            int piece = i * THREADS_AN_IMAGE + threadIdx.x % THREADS_AN_IMAGE;
            held[i] = piece < PIECES ? load_once(pieces + piece) : make_uint4(0, 0, 0, 0);
        }
    }
    __device__ __forceinline__ void store(uint4* pixels, const PixelScalings& scalings) const {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            int piece = i * THREADS_AN_IMAGE + threadIdx.x % THREADS_AN_IMAGE, channel = piece / (PIECES / CHANNELS);
            uint4 v = held[i];
            if (piece >= PIECES) continue;
            if constexpr (BYTES)
                pixels[piece] = make_uint4(scalings.word(widen(v.x), channel), scalings.word(widen(v.y), channel),
                                           scalings.word(widen(v.z), channel), scalings.word(widen(v.w), channel));
            else
                reinterpret_cast<unsigned*>(pixels)[piece] =
                    scalings.word(make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                                              __uint_as_float(v.w)), channel);
        }
    }
};

// images: (batch, 3, 32, 32), float32 or uint8, aligned to 16 bytes; logits: float32 (batch, 10).
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    lenet(const void* __restrict__ images, const uint4* __restrict__ parameters, float* __restrict__ logits, int batch,
          float* /* workspace, of fp32.cu alone */) {
    SHARED_MEMORY(shared);
    const float2* scalings = reinterpret_cast<const float2*>(shared + SCALINGS_AT);
    uint4 *features = shared + FEATURES_AT, *hidden1 = shared + HIDDEN1_AT, *hidden2 = shared + HIDDEN2_AT;
    uint4* maps = shared + MAPS_AT;
    Mbarrier* mbarriers = reinterpret_cast<Mbarrier*>(shared + MBARRIERS_AT);
    int warp = threadIdx.x / 32;

    int first = blockIdx.x * IMAGES, count = min(IMAGES, batch - first);
    logits += static_cast<long long>(first) * CLASSES;

    // Groups of copies that are not BULK: the constants; the fully connected layers' weights in their time.
    const uint4* later = parameters + PIXEL_SCALINGS;
    if (!BULK)
        copy_block(shared, later, CONSTANTS, THREADS);
    else if (threadIdx.x == 0)
        mbarriers[0].init_and_copy(shared, later, CONSTANTS);
    commit_copies();
    int image = warp / WARPS_AN_IMAGE;
    uint4* pixels = shared + PIXELS_AT + image * PIXEL_CHUNKS;
    ImagePieces pieces;
    Conv1 conv1;
    if (image < count) pieces.fetch(static_cast<const uint4*>(images) + static_cast<long long>(first + image) * PIECES);
    if (BULK) {
        __syncthreads();  // `init_and_copy` made it
        mbarriers[0].wait();
        conv1.load(shared);
    }
    if (image < count) pieces.store(pixels, PixelScalings(parameters));
    // Only now: what is wanted later may not stand in the images' way.
    if (RESIDENT && !BULK)
        copy_block(shared + FC1, later + FC1, ALL - FC1, THREADS);
    else if (RESIDENT && threadIdx.x == 0)
        mbarriers[1].init_and_copy(shared + FC1, later + FC1, ALL - FC1);
    commit_copies();
    if (BULK) {
        sync_part(image, THREADS_AN_IMAGE);
    } else {
        wait_for_copies<1>();
        __syncthreads();
        conv1.load(shared);
    }
    // A crew of two has seven tiles: who has four of them differs, for every fourth warp shares a scheduler.
#pragma unroll 1
    for (int tile = (warp + image / 2) % WARPS_AN_IMAGE; image < count && tile < ceil_div(PAIRS, 16); tile += WARPS_AN_IMAGE)
        conv1.tile(tile, reinterpret_cast<const unsigned*>(pixels), reinterpret_cast<unsigned*>(maps + image * MAP_CHUNKS));
    __syncthreads();

#pragma unroll 1
    for (int unit = warp * UNITS; unit < ceil_div(IMAGES * POOLED2, 8); unit += WARPS * UNITS)
        conv2(unit, shared, maps, reinterpret_cast<unsigned short*>(features));
    wait_for_copies<0>();
    if (RESIDENT && BULK) mbarriers[1].wait();
    __syncthreads();

    const uint4* weights = RESIDENT ? shared : later;
    const uint4* weights3 = weights + FC1 + warp % ROWS3 * (BLOCKS3 * BLOCK);
    constexpr int HALF3 = BLOCKS3 / 2;
    Sum sums[4];
    uint4* others = maps + threadIdx.x % (32 * ROWS3);  // of a second warp, which has the other inputs
    if (warp < ROWS3) {
        connect<0, HALF3, STRIDE3>(sums, weights3, features);
    } else if (warp < 2 * ROWS3) {
        connect<HALF3, BLOCKS3, STRIDE3>(sums, weights3, features);
        for (int i = 0; i < 4; ++i) reinterpret_cast<Sum*>(others)[i] = sums[i];
    }
    __syncthreads();
    if (warp < ROWS3) {
        for (int i = 0; i < 4; ++i) sums[i] += reinterpret_cast<const Sum*>(others)[i];
        store_hidden<STRIDE4>(sums, warp, reinterpret_cast<const float4*>(scalings + SCALING3), hidden1);
    }
    __syncthreads();
    if (warp < ROWS4) {
        connect<0, BLOCKS4, STRIDE4>(sums, weights + FC2 + warp * (BLOCKS4 * BLOCK), hidden1);
        store_hidden<STRIDE5>(sums, warp, reinterpret_cast<const float4*>(scalings + SCALING4), hidden2);
    }
    __syncthreads();
    if (warp == 0)
        classify(weights + FC3, hidden2, reinterpret_cast<const float4*>(scalings + SCALING5), logits, count);
}
