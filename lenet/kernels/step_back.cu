// The second half of a training step, behind step_forward.cu: back through the convolutions, and the update.

// Back through the convolutions of an image, by 24 warps. A tap is a place in a kernel.
//
//     conv2's inputs    8 warps: one has 3 input maps and a quarter of the maps, a lane a tap; it adds to 25 inputs at a time
//     conv2's weights   16 warps: one has a map, a lane a row of taps of an input map
//     conv1's weights   24 warps: one has a map and a quarter of the places, a lane 3 taps, or the other 2, of a channel's row
//
// Shared memory bounds this kernel. So a warp takes one delta at a time and skips zeros. Rows and planes are padded so that
// the lanes of a warp read different banks.
constexpr int WARPS3 = 24, DIFFERENTIATE_THREADS = WARPS3 * WARP;
constexpr int QUARTERS = 4, INPUTS_A_WARP = 3, WARPS_INPUTS2 = QUARTERS * MAPS1 / INPUTS_A_WARP;
static_assert(WARPS_INPUTS2 + MAPS2 == WARPS3 && QUARTERS * MAPS1 == WARPS3, "each warp has its share");
constexpr int MAP_ROW = 19, MAP_PLANE = 287, INPUT_PLANE = SIDE1 * MAP_ROW, INPUTS = MAPS1 * INPUT_PLANE;
constexpr int PIXEL_ROW = 34, PIXEL_PLANE = 1098, TAPS_A_LANE = 3;
constexpr int MAPS_END = MAPS1 * MAP_PLANE, GRADIENT1 = CONV2;  // conv1's weights and biases

// A delta, and where the first of the inputs lies that gave the pool's value: its `place`.
struct alignas(8) Delta {
    float value;
    int place;
};

__device__ __forceinline__ int in_plane(int at) { return at % MAP1 / SIDE1 * MAP_ROW + at % SIDE1; }

// Sums deltas, and their products with the values from their places on. AT_ONCE deltas are read before any is used.
template <int AT_ONCE, int COUNT>
__device__ __forceinline__ void accumulate_deltas(
    float (&sums)[COUNT], float& total, const Delta* deltas, int from, int to, const float* values) {
#pragma unroll 1
    for (int first = from; first < to; first += AT_ONCE) {
        Delta s[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) s[i] = deltas[first + i];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            if (s[i].value == 0.0f) continue;  // all lanes have the same delta
            total += s[i].value;
#pragma unroll
            for (int k = 0; k < COUNT; ++k) sums[k] += s[i].value * values[s[i].place + k];
        }
    }
}

__device__ __forceinline__ void conv2_weight_gradient(float* gradient, const Delta* deltas, const float* maps) {
    int map = threadIdx.x / WARP - WARPS_INPUTS2, lane = threadIdx.x % WARP, input = lane / KERNEL, row = lane % KERNEL;
    if (map < 0 || input >= MAPS1) return;
    maps += input * MAP_PLANE + row * MAP_ROW;
    float sums[KERNEL] = {}, total = 0.0f;
    accumulate_deltas<SIDE2>(sums, total, deltas, map * POOLED2, (map + 1) * POOLED2, maps);
#pragma unroll
    for (int k = 0; k < KERNEL; ++k) gradient[CONV2 + (map * MAPS1 + input) * TAPS + row * KERNEL + k] = sums[k];
    if (lane == 0) gradient[CONV2_BIAS + map] = total;
}

__device__ __forceinline__ void conv2_input_gradient(float* to, const float* weights, const Delta* deltas) {
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, quarter = warp % QUARTERS;
    if (warp >= WARPS_INPUTS2) return;
    int input = warp / QUARTERS * INPUTS_A_WARP;
    to += quarter * INPUTS + input * INPUT_PLANE;
#pragma unroll 1
    for (int i = lane; i < INPUTS_A_WARP * INPUT_PLANE; i += WARP) to[i] = 0.0f;
    __syncwarp();
    to += lane / KERNEL * MAP_ROW + lane % KERNEL;
#pragma unroll 1
    for (int map = quarter * (MAPS2 / QUARTERS); map < (quarter + 1) * (MAPS2 / QUARTERS); ++map) {
        float w[INPUTS_A_WARP];
#pragma unroll
        for (int j = 0; j < INPUTS_A_WARP; ++j)
            w[j] = lane < TAPS ? weights[(map * MAPS1 + input + j) * TAPS + lane] : 0.0f;
#pragma unroll 1
        for (int first = map * POOLED2; first < (map + 1) * POOLED2; first += SIDE2) {
            Delta s[SIDE2];
#pragma unroll
            for (int i = 0; i < SIDE2; ++i) s[i] = deltas[first + i];
#pragma unroll
            for (int i = 0; i < SIDE2; ++i) {
                if (s[i].value == 0.0f) continue;  // all lanes have the same delta
                float sums[INPUTS_A_WARP];
                if (lane < TAPS) {
#pragma unroll
                    for (int j = 0; j < INPUTS_A_WARP; ++j) sums[j] = to[j * INPUT_PLANE + s[i].place] + s[i].value * w[j];
#pragma unroll
                    for (int j = 0; j < INPUTS_A_WARP; ++j) to[j * INPUT_PLANE + s[i].place] = sums[j];
                }
                __syncwarp();  // the next delta may add to another lane's place
            }
        }
    }
}

__device__ __forceinline__ void conv1_weight_gradient(float* to, const Delta* deltas, const float* pixels) {
    constexpr int ROWS1 = CHANNELS * KERNEL, EACH = MAP1 / QUARTERS, AT_ONCE = 7;
    static_assert(EACH % AT_ONCE == 0 && 2 * ROWS1 <= WARP, "no rest");
    int warp = threadIdx.x / WARP, map = warp % MAPS1, quarter = warp / MAPS1;
    int lane = threadIdx.x % WARP, row = lane % ROWS1, tap = lane / ROWS1 * TAPS_A_LANE;
    if (tap >= KERNEL) return;
    pixels += row / KERNEL * PIXEL_PLANE + row % KERNEL * PIXEL_ROW + tap;
    deltas += map * MAP1 + quarter * EACH;
    float sums[TAPS_A_LANE] = {}, total = 0.0f;
    accumulate_deltas<AT_ONCE>(sums, total, deltas, 0, EACH, pixels);
    to += quarter * GRADIENT1;
#pragma unroll
    for (int k = 0; k < TAPS_A_LANE; ++k)
        if (tap + k < KERNEL) to[CONV1 + map * ROWS1 * KERNEL + row * KERNEL + tap + k] = sums[k];
    if (lane == 0) to[CONV1_BIAS + map] = total;
}

extern "C" __global__ void __launch_bounds__(DIFFERENTIATE_THREADS, 2)
    differentiate(const float* __restrict__ images, const float* __restrict__ weights, float* __restrict__ scratch, int batch) {
    SHARED_MEMORY(memory);
    constexpr int THREADS = DIFFERENTIATE_THREADS;
    float *pixels = reinterpret_cast<float*>(memory), *maps = pixels + CHANNELS * PIXEL_PLANE;
    Delta* deltas2 = reinterpret_cast<Delta*>(maps + MAPS_END);
    float* inputs = reinterpret_cast<float*>(deltas2 + FEATURES);
    Delta* deltas1 = reinterpret_cast<Delta*>(inputs);  // on the quarters, once they are read
    float* sums1 = reinterpret_cast<float*>(deltas1 + ALL1);
    static_assert(2 * ALL1 + QUARTERS * GRADIENT1 <= QUARTERS * INPUTS, "sums need more room");
    int image = blockIdx.x;
    float* gradient = scratch + PARTS_AT * batch + image * CONVOLUTIONS;
    const float *maps_from = scratch + MAPS_AT * batch + image * ALL1, *deltas = scratch + DELTA0_AT * batch + image * FEATURES;
    const unsigned char* choices1 = reinterpret_cast<const unsigned char*>(scratch + CHOICES1_AT * batch) + image * ALL1;
    const unsigned char* choices2 = reinterpret_cast<const unsigned char*>(scratch + CHOICES2_AT * batch) + image * FEATURES;

    if (threadIdx.x < FEATURES) {
        int row = threadIdx.x % POOLED2 / SIDE2, column = threadIdx.x % SIDE2, choice = choices2[threadIdx.x];
        deltas2[threadIdx.x] = {deltas[threadIdx.x], (2 * row + choice / 2) * MAP_ROW + 2 * column + choice % 2};
    }
#pragma unroll
    for (int i = threadIdx.x; i < ALL1; i += THREADS) maps[i / MAP1 * MAP_PLANE + in_plane(i)] = maps_from[i];
#pragma unroll
    for (int i = threadIdx.x; i < PIXELS; i += THREADS)
        pixels[i / (SIZE * SIZE) * PIXEL_PLANE + i / SIZE % SIZE * PIXEL_ROW + i % SIZE] = images[image * PIXELS + i];
    __syncthreads();  // deltas, maps and pixels are there
    conv2_input_gradient(inputs, weights + CONV2, deltas2);
    conv2_weight_gradient(gradient, deltas2, maps);
    __syncthreads();  // all quarters of the inputs' gradients are there

    Delta mine[ceil_div(ALL1, THREADS)];
#pragma unroll
    for (int i = 0; i < ceil_div(ALL1, THREADS); ++i) {
        int at = i * THREADS + threadIdx.x;
        if (at >= ALL1) continue;
        const float* in = inputs + at / MAP1 * INPUT_PLANE + in_plane(at);
        float sum = (in[0] + in[INPUTS]) + (in[2 * INPUTS] + in[3 * INPUTS]);
        int row = at % MAP1 / SIDE1, column = at % SIDE1, choice = choices1[at];
        mine[i].value = maps[at / MAP1 * MAP_PLANE + in_plane(at)] > 0.0f ? sum : 0.0f;
        mine[i].place = (2 * row + choice / 2) * PIXEL_ROW + 2 * column + choice % 2;
    }
    __syncthreads();  // all quarters are read: deltas1 lies on them
#pragma unroll
    for (int i = 0; i < ceil_div(ALL1, THREADS); ++i)
        if (i * THREADS + threadIdx.x < ALL1) deltas1[i * THREADS + threadIdx.x] = mine[i];
    __syncthreads();  // all of deltas1 is there
    conv1_weight_gradient(sums1, deltas1, pixels);
    __syncthreads();  // all quarters of the sums are there
    if (threadIdx.x < GRADIENT1) {
        const float* sum = sums1 + threadIdx.x;
        gradient[threadIdx.x] = (sum[0] + sum[GRADIENT1]) + (sum[2 * GRADIENT1] + sum[3 * GRADIENT1]);
    }
}

// A block of `update` has 32 neighbouring weights of 8 outputs of a fully connected layer, the bias as one weight more; or
// 32 weights of the convolutions. It sums over ROWS images of the batch at a time.
constexpr int UPDATE_THREADS = 256, ACROSS = 32, DOWN = UPDATE_THREADS / ACROSS, ROWS = 100;
__device__ constexpr int tiles(int inputs, int outputs) { return ceil_div(inputs + 1, ACROSS) * ceil_div(outputs, DOWN); }
constexpr int BLOCKS1 = tiles(FEATURES, HIDDEN1), BLOCKS2 = tiles(HIDDEN1, HIDDEN2), BLOCKS3 = tiles(HIDDEN2, CLASSES);
constexpr int BLOCKS = BLOCKS1 + BLOCKS2 + BLOCKS3 + ceil_div(CONVOLUTIONS, ACROSS);

struct Sgd {  // of `torch.optim.SGD`
    float *weights, *momentum, rate, keep, decay;
    __device__ __forceinline__ void step(int i, float gradient) const {
        float velocity = keep * momentum[i] + (gradient + decay * weights[i]);
        momentum[i] = velocity, weights[i] -= rate * velocity;
    }
};

// The sum over the batch of delta x input, each [image][...].
template <int INPUTS, int OUTPUTS, int PITCH, int WEIGHTS_AT, int BIAS_AT>
__device__ __forceinline__ void update_layer(int tile, const Sgd& sgd, float* shared, const float* delta,
                                             const float* inputs, int batch) {
    constexpr int TILES = ceil_div(INPUTS + 1, ACROSS);
    float *in = shared, *back = shared + ROWS * ACROSS;
    int x = threadIdx.x % ACROSS, y = threadIdx.x / ACROSS, first = tile % TILES * ACROSS, top = tile / TILES * DOWN;
    int input = first + x, output = top + y;
    float sum = 0.0f;
#pragma unroll 1
    for (int from = 0; from < batch; from += ROWS) {
        __syncthreads();  // the last ROWS images are done with
#pragma unroll
        for (int i = 0; i < ceil_div(ROWS, DOWN); ++i) {
            int row = i * DOWN + y, image = from + row;
            float value = input == INPUTS ? 1.0f : 0.0f;
            if (input < INPUTS && image < batch) value = inputs[image * INPUTS + input];
            if (row < ROWS) in[row * ACROSS + x] = value;
        }
#pragma unroll
        for (int i = 0; i < ceil_div(ROWS * DOWN, UPDATE_THREADS); ++i) {
            int place = i * UPDATE_THREADS + threadIdx.x, image = from + place / DOWN, other = top + place % DOWN;
            if (place < ROWS * DOWN)
                back[place] = image < batch && other < OUTPUTS ? delta[image * PITCH + other] : 0.0f;
        }
        __syncthreads();  // these are there
#pragma unroll 10
        for (int row = 0; row < ROWS; ++row) sum += back[row * DOWN + y] * in[row * ACROSS + x];
    }
    if (output < OUTPUTS && input <= INPUTS)
        sgd.step(input < INPUTS ? WEIGHTS_AT + output * INPUTS + input : BIAS_AT + output, sum);
}

__device__ __forceinline__ void update_convolutions(int tile, const Sgd& sgd, float* shared, const float* parts,
                                                    int batch) {
    int x = threadIdx.x % ACROSS, y = threadIdx.x / ACROSS, weight = tile * ACROSS + x;
    float sum = 0.0f;
    if (weight < CONVOLUTIONS) {
#pragma unroll 8
        for (int image = y; image < batch; image += DOWN) sum += parts[image * CONVOLUTIONS + weight];
    }
    shared[threadIdx.x] = sum;
    __syncthreads();  // all DOWN partial sums are there
    if (y > 0 || weight >= CONVOLUTIONS) return;
#pragma unroll
    for (int i = 1; i < DOWN; ++i) sum += shared[i * ACROSS + x];
    sgd.step(weight, sum);
}

extern "C" __global__ void __launch_bounds__(UPDATE_THREADS)
    update(float* __restrict__ weights, float* __restrict__ momentum, const float* __restrict__ rate, float keep, float decay,
           const float* __restrict__ scratch, int batch) {
    SHARED_MEMORY(memory);
    float* shared = reinterpret_cast<float*>(memory);
    Sgd sgd = {weights, momentum, *rate, keep, decay};
    int tile = blockIdx.x;
    if (tile < BLOCKS1)
        return update_layer<FEATURES, HIDDEN1, HIDDEN1, FC1, FC1_BIAS>(
            tile, sgd, shared, scratch + DELTA1_AT * batch, scratch + FEATURES_AT * batch, batch);
    tile -= BLOCKS1;
    if (tile < BLOCKS2)
        return update_layer<HIDDEN1, HIDDEN2, HIDDEN2, FC2, FC2_BIAS>(
            tile, sgd, shared, scratch + DELTA2_AT * batch, scratch + HIDDEN1_AT * batch, batch);
    tile -= BLOCKS2;
    if (tile < BLOCKS3)
        return update_layer<HIDDEN2, CLASSES, DELTA3, FC3, FC3_BIAS>(
            tile, sgd, shared, scratch + DELTA3_AT * batch, scratch + HIDDEN2_AT * batch, batch);
    update_convolutions(tile - BLOCKS3, sgd, shared, scratch + PARTS_AT * batch, batch);
}
