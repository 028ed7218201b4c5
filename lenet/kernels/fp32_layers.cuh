// LeNet's layers in IEEE single precision: every multiply-add is an FFMA.
//
// A block of 20 warps takes IMAGES images through the network in shared memory:
//
//     pixels  [image][channel][32 rows][32]             copied as they are, or widened from bytes
//     maps    [image][6][14 rows][14, padded to 16]     pooled, with bias and ReLU (a maximum commutes with both)
//     features [image][400], hidden1 [image][120], hidden2 [image][84]
//
// What bounds it is the issue of instructions: an SM quarter issues one a cycle, and a load is one that is no FFMA. So a
// thread computes a tile of outputs from registers. FFMA and 16-byte shared loads (LDS) of one input channel:
//
//     conv1: 2 rows x 4 columns x 3 maps     600 FFMA, 12 LDS of pixels + 20 of weights     5.3 % loads
//     conv2: 2 rows x 10 columns x 1 map     500 FFMA, 24 LDS of maps + 7 of weights        6.2 %
//     fc1:   4 outputs x 8 images x 4 inputs 128 FFMA, 8 LDS of features + 4 of weights     9.4 %
//
// With 8 images conv2 has just 20 warps' worth of tiles, and conv1 49; the lanes of a warp share most of what they read
// (conv1: 16 places x 2 groups of maps; conv2: 2 strips x 16 maps), so shared memory delivers it in few passes.
//
// The fully connected layers are products of IMAGES rows with K split over the 20 warps, whose partial sums are then
// added up.
//
// Macros: IMAGES, BLOCKS (of an image: 1, or 5 where IMAGES is 1), BYTES (input is uint8, not float32), SHARED_BYTES (of a
// block), WARPS (of a block: 20), MAPS_A_THREAD (of conv1: 3 or 1), WINDOWS_A_THREAD (of conv2: 5 or 1).

constexpr int THREADS = WARP * WARPS;
static_assert(BLOCKS == 1 || IMAGES == 1, "blocks share one image");

// What a block has of an image: rows of conv2's windows, of the maps that these see, and of the pixels that those see.
constexpr int ROWS2 = SIDE2 / BLOCKS, ROWS1 = 2 * ROWS2 + KERNEL - 1, ROWS = 2 * ROWS1 + KERNEL - 1;
constexpr int PIXELS_HERE = CHANNELS * ROWS * SIZE;
constexpr int WINDOWS2 = ROWS2 * SIDE2, FEATURES_HERE = MAPS2 * WINDOWS2;

// Parameters in global memory, in floats; `_pack_fp32` of `lenet.kernels` writes them. Where blocks share an image fc1's
// inputs are in the order [row of windows][map][window].
constexpr int GROUPS = MAPS1 / MAPS_A_THREAD;                  // of conv1's maps
constexpr int ROW1 = round_up(MAPS_A_THREAD * KERNEL, 4);      // a kernel row of a group: [map][5], padded
constexpr int WEIGHTS1 = GROUPS * CHANNELS * KERNEL * ROW1;    // [group][channel][kernel row][ROW1]
constexpr int FILTER2 = 28;                                    // 5x5 weights, padded
constexpr int WEIGHTS2 = MAPS1 * MAPS2 * FILTER2;              // [input map][map][FILTER2]
constexpr int WEIGHTS5 = CLASSES * HIDDEN2;                    // fc3: [class][84]
constexpr int CONSTANTS = WEIGHTS1 + WEIGHTS2 + BIASES + WEIGHTS5;
constexpr int FC1 = CONSTANTS, FC2 = FC1 + FEATURES * HIDDEN1;  // [input][output]

// An image's maps in shared memory, in floats.
constexpr int MAP_ROW = 16, MAP = ROWS1 * MAP_ROW, MAPS = MAPS1 * MAP + 4;  // the next image lies in other banks

__device__ __forceinline__ float4 quad(const float* from) { return *reinterpret_cast<const float4*>(from); }
__device__ __forceinline__ void unpack(float* to, float4 v) { to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w; }

// Floats from shared or global memory to registers, by the widest loads that their number and alignment allow.
template <int COUNT, int WIDTH>
__device__ __forceinline__ void load(float (&to)[COUNT], const float* from) {
#pragma unroll
    for (int i = 0; i < COUNT; i += WIDTH) {
        if (WIDTH == 4 && i + 4 <= COUNT) {
            unpack(to + i, quad(from + i));
        } else {
#pragma unroll
            for (int j = i; j < i + WIDTH && j < COUNT; j += 2) {
                float2 v = *reinterpret_cast<const float2*>(from + j);
                to[j] = v.x, to[j + 1] = v.y;
            }
        }
    }
}

constexpr int PLACES = ROWS1 * (SIDE1 / 2);  // tiles of an image and a group of maps
constexpr int FIRST_TILES = ceil_div(THREADS, PLACES * GROUPS);
// The block's first round of tiles needs these; bytes come all at once, for there are no registers to hold more of them.
constexpr int FIRST_IMAGES = BYTES || IMAGES < FIRST_TILES ? IMAGES : FIRST_TILES;

// Tiles of conv1 and its pool: 2 rows x 4 columns of MAPS_A_THREAD maps, so two windows of the pool.
__device__ __forceinline__ void conv1(int tile, int count, const float* weights, const float* bias, const float* pixels,
                                      float* maps) {
    constexpr int COLUMNS = 4;
    int group = tile % GROUPS, place = tile / GROUPS;
    int image = place / PLACES;
    if (image >= count) return;
    int row = place % PLACES / (SIDE1 / 2), column = place % (SIDE1 / 2);

    const float* from = pixels + image * PIXELS_HERE + 2 * row * SIZE + COLUMNS * column;
    weights += group * CHANNELS * KERNEL * ROW1;
    float sums[MAPS_A_THREAD][2][COLUMNS] = {};
#pragma unroll 1
    for (int channel = 0; channel < CHANNELS; ++channel) {
#pragma unroll
        for (int r = 0; r < KERNEL; ++r) {  // rows of pixels overlap: the lower kernel's row is the upper's next
            float upper[COLUMNS + KERNEL - 1], lower[COLUMNS + KERNEL - 1], w[ROW1];
            load<COLUMNS + KERNEL - 1, 4>(upper, from + r * SIZE);
            load<COLUMNS + KERNEL - 1, 4>(lower, from + (r + 1) * SIZE);
            load<ROW1, 4>(w, weights + r * ROW1);
#pragma unroll
            for (int map = 0; map < MAPS_A_THREAD; ++map)
#pragma unroll
                for (int k = 0; k < KERNEL; ++k)
#pragma unroll
                    for (int x = 0; x < COLUMNS; ++x) {
                        sums[map][0][x] += w[map * KERNEL + k] * upper[x + k];
                        sums[map][1][x] += w[map * KERNEL + k] * lower[x + k];
                    }
        }
        from += ROWS * SIZE;
        weights += KERNEL * ROW1;
    }
#pragma unroll
    for (int map = 0; map < MAPS_A_THREAD; ++map) {
        int to = group * MAPS_A_THREAD + map;
        float2 pooled;
        pooled.x = max4(sums[map][0][0], sums[map][0][1], sums[map][1][0], sums[map][1][1]) + bias[to];
        pooled.y = max4(sums[map][0][2], sums[map][0][3], sums[map][1][2], sums[map][1][3]) + bias[to];
        pooled.x = fmaxf(pooled.x, 0.0f), pooled.y = fmaxf(pooled.y, 0.0f);
        *reinterpret_cast<float2*>(maps + image * MAPS + to * MAP + row * MAP_ROW + 2 * column) = pooled;
    }
}

// Tiles of conv2 and its pool: WINDOWS_A_THREAD neighbouring windows of one map. Of a lone image there are so few that two
// lanes share one: each sums over half of the maps that it reads. They are 16 lanes apart, so that the lanes that load
// together (8, of 16 bytes each) are neighbouring maps of one half, whose weights lie in different banks.
constexpr int HALVES = IMAGES == 1 ? 2 : 1;
static_assert(2 * MAPS2 == WARP, "a warp has every map twice");

__device__ __forceinline__ void conv2(int tile, int count, const float* weights, const float* bias, const float* maps,
                                      float* features) {
    constexpr int COLUMNS = 2 * WINDOWS_A_THREAD, INPUTS = COLUMNS + KERNEL - 1;
    constexpr int STRIPS = WINDOWS2 / WINDOWS_A_THREAD, ACROSS = SIDE2 / WINDOWS_A_THREAD;
    int map = HALVES == 2 ? tile % MAPS2 : tile % WARP / 2, half = HALVES == 2 ? tile / MAPS2 % 2 : 0;
    int place = HALVES == 2 ? tile / WARP : tile / WARP * 2 + tile % 2;  // a warp has 16 maps x 2 images, as a rule
    // Images in pairs, whose maps lie in different banks.
    int image = IMAGES == 1 ? 0 : place / (2 * STRIPS) * 2 + place % 2, strip = IMAGES == 1 ? place : place / 2 % STRIPS;
    if (image >= count || strip >= STRIPS) return;
    int row = strip / ACROSS, window = strip % ACROSS * WINDOWS_A_THREAD;

    const float* from = maps + image * MAPS + half * MAPS1 / 2 * MAP + 2 * row * MAP_ROW + 2 * window;
    weights += (half * MAPS1 / 2 * MAPS2 + map) * FILTER2;
    float sums[2][COLUMNS] = {};
#pragma unroll 1
    for (int channel = 0; channel < MAPS1 / HALVES; ++channel) {
        float w[FILTER2];
        load<FILTER2, 4>(w, weights);
#pragma unroll
        for (int r = 0; r < KERNEL + 1; ++r) {
            float in[INPUTS];
            load<INPUTS, WINDOWS_A_THREAD == SIDE2 ? 4 : 2>(in, from + r * MAP_ROW);
#pragma unroll
            for (int k = 0; k < KERNEL; ++k)
#pragma unroll
                for (int x = 0; x < COLUMNS; ++x) {
                    if (r < KERNEL) sums[0][x] += w[r * KERNEL + k] * in[x + k];
                    if (r > 0) sums[1][x] += w[(r - 1) * KERNEL + k] * in[x + k];
                }
        }
        from += MAP;
        weights += MAPS2 * FILTER2;
    }
    if (HALVES == 2) {
#pragma unroll
        for (int i = 0; i < 2 * COLUMNS; ++i) sums[i / COLUMNS][i % COLUMNS] += from_lane_xor(sums[i / COLUMNS][i % COLUMNS], MAPS2);
        if (half) return;
    }
    float* to = features + image * FEATURES_HERE + map * WINDOWS2 + row * SIDE2 + window;
#pragma unroll
    for (int i = 0; i < WINDOWS_A_THREAD; ++i) {
        float pooled = max4(sums[0][2 * i], sums[0][2 * i + 1], sums[1][2 * i], sums[1][2 * i + 1]);
        to[i] = fmaxf(pooled + bias[map], 0.0f);
    }
}

// A warp's share of a fully connected layer: DEPTH of the inputs, all outputs (4 a lane), all images.
using Sums = float[IMAGES][4];

template <int DEPTH, int INPUTS>
__device__ __forceinline__ void multiply(Sums& sums, const float (&w)[DEPTH][4], const float* inputs) {
#pragma unroll
    for (int image = 0; image < IMAGES; ++image) {
        float in[DEPTH];
        load<DEPTH, DEPTH>(in, inputs + image * INPUTS);
#pragma unroll
        for (int j = 0; j < DEPTH; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[image][i] += w[j][i] * in[j];
    }
}

template <int DEPTH, int STEP, int INPUTS, int OUTPUTS>
__device__ __forceinline__ void multiply_slice(Sums& sums, const float* weights, const float* inputs) {
    int output = threadIdx.x % 32 * 4;
    if (output >= OUTPUTS) return;
#pragma unroll 1
    for (int k = 0; k < DEPTH; k += STEP) {
        float w[STEP][4];
#pragma unroll
        for (int j = 0; j < STEP; ++j) unpack(w[j], quad(weights + (k + j) * OUTPUTS + output));
        multiply<STEP, INPUTS>(sums, w, inputs + k);
    }
}

// The weights of a slice of few inputs, from global memory to registers.
template <int DEPTH, int OUTPUTS>
__device__ __forceinline__ void fetch_slice(float (&w)[DEPTH][4], const float* weights) {
    int output = threadIdx.x % 32 * 4;
    if (output >= OUTPUTS) return;
#pragma unroll
    for (int j = 0; j < DEPTH; ++j) {
        uint4 v = load_once(reinterpret_cast<const uint4*>(weights + j * OUTPUTS + output));
        w[j][0] = __uint_as_float(v.x), w[j][1] = __uint_as_float(v.y);
        w[j][2] = __uint_as_float(v.z), w[j][3] = __uint_as_float(v.w);
    }
}

template <int OUTPUTS>
__device__ __forceinline__ void store_sums(const Sums& sums, float* to) {
    int output = threadIdx.x % 32 * 4;
    if (output >= OUTPUTS) return;
#pragma unroll
    for (int image = 0; image < IMAGES; ++image)
        *reinterpret_cast<float4*>(to + image * OUTPUTS + output) =
            make_float4(sums[image][0], sums[image][1], sums[image][2], sums[image][3]);
}

// Adds to a number, in order, COUNT shares that lie STRIDE floats apart.
template <int COUNT, int STRIDE, typename Float>
__device__ __forceinline__ float add_shares(float total, Float* shares) {
#pragma unroll
    for (int share = 0; share < COUNT; ++share) total += shares[share * STRIDE];
    return total;
}

// fc3: 8 lanes for each logit.
__device__ __forceinline__ void classify(const float* weights, const float* bias, const float* hidden, float* logits, int count) {
    constexpr int LANES = 8;
#pragma unroll 1
    for (int i = threadIdx.x / LANES; i < round_up(IMAGES * CLASSES, THREADS / LANES); i += THREADS / LANES) {
        int output = min(i, IMAGES * CLASSES - 1), image = output / CLASSES, label = output % CLASSES;
        float total = 0.0f;
#pragma unroll
        for (int k = threadIdx.x % LANES; k < HIDDEN2; k += LANES)
            total += weights[label * HIDDEN2 + k] * hidden[image * HIDDEN2 + k];
#pragma unroll
        for (int lanes = LANES / 2; lanes > 0; lanes /= 2) total += from_lane_xor(total, lanes);
        if (i < count * CLASSES && threadIdx.x % LANES == 0) logits[i] = total + bias[label];
    }
}
