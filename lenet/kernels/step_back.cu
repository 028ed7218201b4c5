// The second half of a training step, behind step_forward.cu: back through the convolutions, and the update.

// Back through the convolutions of an image, by 24 warps. A tap is a place in a kernel.
//
//     conv2's inputs    8 warps: one has 3 input maps and a quarter of the maps, a lane a tap; it adds to 25 inputs at a time
//     conv2's weights   16 warps: one has a map, a lane a row of taps of an input map
//     conv1's weights   a warp has two maps and an eighth of the places, a lane a row of taps of a channel
constexpr int WARPS3 = 24, DIFFERENTIATE_THREADS = WARPS3 * WARP;
constexpr int QUARTERS = 4, INPUTS_A_WARP = 3, WARPS_INPUTS2 = QUARTERS * MAPS1 / INPUTS_A_WARP;
static_assert(WARPS_INPUTS2 + MAPS2 == WARPS3, "a warp has one of both tasks");
constexpr int EIGHTHS = WARPS3 / (MAPS1 / 2), PLACES_EACH = ceil_div(MAP1, EIGHTHS);
constexpr int PIXEL_ROW = 33, PIXEL_PLANE = 1061;  // in 15 banks lie what 15 rows of taps read
constexpr int GRADIENT1 = CONV2;                   // conv1's weights and biases

__device__ __forceinline__ void find_weights2(float* gradient, const float* slope, const int* places, const float* maps) {
    int map = threadIdx.x / WARP - WARPS_INPUTS2, lane = threadIdx.x % WARP, input = lane / KERNEL, row = lane % KERNEL;
    if (map < 0 || input >= MAPS1) return;
    float sums[KERNEL] = {}, total = 0.0f;
#pragma unroll 5
    for (int i = 0; i < POOLED2; ++i) {
        float s = slope[map * POOLED2 + i];
        const float* in = maps + input * MAP1 + row * SIDE1 + places[map * POOLED2 + i];
        total += s;
#pragma unroll
        for (int k = 0; k < KERNEL; ++k) sums[k] += s * in[k];
    }
#pragma unroll
    for (int k = 0; k < KERNEL; ++k) gradient[CONV2 + (map * MAPS1 + input) * TAPS + row * KERNEL + k] = sums[k];
    if (input == 0 && row == 0) gradient[CONV2_BIAS + map] = total;
}

__device__ __forceinline__ void find_inputs2(float* to, const float* weights, const float* slope, const int* places) {
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, quarter = warp % QUARTERS, input = warp / QUARTERS * INPUTS_A_WARP;
    if (warp >= WARPS_INPUTS2) return;
    float* map_to = to + quarter * ALL1 + input * MAP1;
#pragma unroll
    for (int i = lane; i < INPUTS_A_WARP * MAP1; i += WARP) map_to[i] = 0.0f;
    __syncwarp();
    map_to += lane / KERNEL * SIDE1 + lane % KERNEL;
#pragma unroll 1
    for (int map = quarter * (MAPS2 / QUARTERS); map < (quarter + 1) * (MAPS2 / QUARTERS); ++map) {
        float w[INPUTS_A_WARP];
#pragma unroll
        for (int j = 0; j < INPUTS_A_WARP; ++j)
            w[j] = lane < TAPS ? weights[(map * MAPS1 + input + j) * TAPS + lane] : 0.0f;
#pragma unroll 1
        for (int first = map * POOLED2; first < (map + 1) * POOLED2; first += SIDE2) {
            float s[SIDE2];
            int place[SIDE2];
#pragma unroll
            for (int i = 0; i < SIDE2; ++i) s[i] = slope[first + i], place[i] = places[first + i];
#pragma unroll
            for (int i = 0; i < SIDE2; ++i) {
                if (s[i] == 0.0f) continue;  // the whole warp
                float sums[INPUTS_A_WARP];
                if (lane < TAPS) {
#pragma unroll
                    for (int j = 0; j < INPUTS_A_WARP; ++j) sums[j] = map_to[j * MAP1 + place[i]] + s[i] * w[j];
#pragma unroll
                    for (int j = 0; j < INPUTS_A_WARP; ++j) map_to[j * MAP1 + place[i]] = sums[j];
                }
                __syncwarp();  // the next addition may be to another lane's place
            }
        }
    }
}

__device__ __forceinline__ void find_weights1(float* sums_to, const float* slope, const int* places, const float* pixels) {
    int warp = threadIdx.x / WARP, half = threadIdx.x % WARP / 16, lane = threadIdx.x % 16;
    int map = warp % (MAPS1 / 2) * 2 + half, eighth = warp / (MAPS1 / 2), last = min((eighth + 1) * PLACES_EACH, MAP1);
    if (lane >= CHANNELS * KERNEL) return;
    const float* from = pixels + lane / KERNEL * PIXEL_PLANE + lane % KERNEL * PIXEL_ROW;
    float sums[KERNEL] = {}, total = 0.0f;
#pragma unroll 5
    for (int i = map * MAP1 + eighth * PLACES_EACH; i < map * MAP1 + last; ++i) {
        float s = slope[i];
        total += s;
#pragma unroll
        for (int k = 0; k < KERNEL; ++k) sums[k] += s * from[places[i] + k];
    }
    sums_to += eighth * GRADIENT1;
#pragma unroll
    for (int k = 0; k < KERNEL; ++k) sums_to[CONV1 + map * CHANNELS * TAPS + lane * KERNEL + k] = sums[k];
    if (lane == 0) sums_to[CONV1_BIAS + map] = total;
}

extern "C" __global__ void __launch_bounds__(DIFFERENTIATE_THREADS, 2)
    differentiate(const float* __restrict__ images, const float* __restrict__ weights, float* __restrict__ scratch, int batch) {
    SHARED_MEMORY(memory);
    constexpr int THREADS = DIFFERENTIATE_THREADS;
    float *pixels = reinterpret_cast<float*>(memory), *maps = pixels + CHANNELS * PIXEL_PLANE, *slope2 = maps + ALL1;
    int* places2 = reinterpret_cast<int*>(slope2 + FEATURES);
    float *inputs = reinterpret_cast<float*>(places2 + FEATURES), *weights2 = inputs + QUARTERS * ALL1;
    float *slope1 = inputs, *sums1 = inputs + 2 * ALL1;  // where the quarters and the weights were read
    int* places1 = reinterpret_cast<int*>(inputs + ALL1);
    static_assert(2 * ALL1 + EIGHTHS * GRADIENT1 <= QUARTERS * ALL1 + MAPS2 * MAPS1 * TAPS, "sums need more room");
    int image = blockIdx.x;
    float* gradient = scratch + PARTS_AT * batch + image * CONVOLUTIONS;
    const unsigned char* choices1 = reinterpret_cast<const unsigned char*>(scratch + CHOICES1_AT * batch) + image * ALL1;
    const unsigned char* choices2 = reinterpret_cast<const unsigned char*>(scratch + CHOICES2_AT * batch) + image * FEATURES;

    copy(maps, scratch + MAPS_AT * batch + image * ALL1, ALL1, THREADS);
    copy(slope2, scratch + SLOPE0_AT * batch + image * FEATURES, FEATURES, THREADS);
    copy(weights2, weights + CONV2, MAPS2 * MAPS1 * TAPS, THREADS);
    if (threadIdx.x < FEATURES) {
        int row = threadIdx.x % POOLED2 / SIDE2, column = threadIdx.x % SIDE2, choice = choices2[threadIdx.x];
        places2[threadIdx.x] = (2 * row + choice / 2) * SIDE1 + 2 * column + choice % 2;
    }
#pragma unroll
    for (int i = threadIdx.x; i < PIXELS; i += THREADS)
        pixels[i / (SIZE * SIZE) * PIXEL_PLANE + i / SIZE % SIZE * PIXEL_ROW + i % SIZE] = images[image * PIXELS + i];
    __syncthreads();
    find_inputs2(inputs, weights2, slope2, places2);
    find_weights2(gradient, slope2, places2, maps);
    __syncthreads();

    int choices[ceil_div(ALL1, THREADS)];
    float slopes[ceil_div(ALL1, THREADS)];
#pragma unroll
    for (int i = 0; i < ceil_div(ALL1, THREADS); ++i) {
        int at = i * THREADS + threadIdx.x;
        if (at >= ALL1) continue;
        float sum = (inputs[at] + inputs[at + ALL1]) + (inputs[at + 2 * ALL1] + inputs[at + 3 * ALL1]);
        slopes[i] = maps[at] > 0.0f ? sum : 0.0f, choices[i] = choices1[at];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ceil_div(ALL1, THREADS); ++i) {
        int at = i * THREADS + threadIdx.x;
        if (at >= ALL1) continue;
        int row = at % MAP1 / SIDE1, column = at % SIDE1;
        slope1[at] = slopes[i], places1[at] = (2 * row + choices[i] / 2) * PIXEL_ROW + 2 * column + choices[i] % 2;
    }
    __syncthreads();
    find_weights1(sums1, slope1, places1, pixels);
    __syncthreads();
    if (threadIdx.x < GRADIENT1) {
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < EIGHTHS; ++i) total += sums1[i * GRADIENT1 + threadIdx.x];
        gradient[threadIdx.x] = total;
    }
}

// A block of `update` has 32 neighbouring weights of 8 outputs of a fully connected layer, the bias as one weight more; or
// 32 weights of the convolutions.
constexpr int UPDATE_THREADS = 256, ACROSS = 32, DOWN = UPDATE_THREADS / ACROSS, ROWS = 100;
__device__ constexpr int tiles(int inputs, int outputs) { return ceil_div(inputs + 1, ACROSS) * ceil_div(outputs, DOWN); }
constexpr int BLOCKS1 = tiles(FEATURES, HIDDEN1), BLOCKS2 = tiles(HIDDEN1, HIDDEN2), BLOCKS3 = tiles(HIDDEN2, CLASSES);
constexpr int BLOCKS = BLOCKS1 + BLOCKS2 + BLOCKS3 + ceil_div(CONVOLUTIONS, ACROSS);

struct Descent {  // of `torch.optim.SGD`
    float *weights, *momentum, rate, keep, decay;
    __device__ __forceinline__ void step(int i, float gradient) const {
        float velocity = keep * momentum[i] + (gradient + decay * weights[i]);
        momentum[i] = velocity, weights[i] -= rate * velocity;
    }
};

// The sum over the batch of slope x input, each [image][...].
template <int INPUTS, int OUTPUTS, int PITCH, int WEIGHTS_AT, int BIAS_AT>
__device__ __forceinline__ void update_layer(int tile, const Descent& descent, float* shared, const float* slope,
                                             const float* inputs, int batch) {
    constexpr int TILES = ceil_div(INPUTS + 1, ACROSS);
    float *in = shared, *back = shared + ROWS * ACROSS;
    int x = threadIdx.x % ACROSS, y = threadIdx.x / ACROSS, first = tile % TILES * ACROSS, top = tile / TILES * DOWN;
    int input = first + x, output = top + y;
    float sum = 0.0f;
#pragma unroll 1
    for (int from = 0; from < batch; from += ROWS) {
        __syncthreads();
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
                back[place] = image < batch && other < OUTPUTS ? slope[image * PITCH + other] : 0.0f;
        }
        __syncthreads();
#pragma unroll 10
        for (int row = 0; row < ROWS; ++row) sum += back[row * DOWN + y] * in[row * ACROSS + x];
    }
    if (output < OUTPUTS && input <= INPUTS)
        descent.step(input < INPUTS ? WEIGHTS_AT + output * INPUTS + input : BIAS_AT + output, sum);
}

__device__ __forceinline__ void update_convolutions(int tile, const Descent& descent, float* shared, const float* parts,
                                                    int batch) {
    int x = threadIdx.x % ACROSS, y = threadIdx.x / ACROSS, weight = tile * ACROSS + x;
    float sum = 0.0f;
    if (weight < CONVOLUTIONS) {
#pragma unroll 8
        for (int image = y; image < batch; image += DOWN) sum += parts[image * CONVOLUTIONS + weight];
    }
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (y > 0 || weight >= CONVOLUTIONS) return;
#pragma unroll
    for (int i = 1; i < DOWN; ++i) sum += shared[i * ACROSS + x];
    descent.step(weight, sum);
}

extern "C" __global__ void __launch_bounds__(UPDATE_THREADS)
    update(float* __restrict__ weights, float* __restrict__ momentum, const float* __restrict__ rate, float keep, float decay,
           const float* __restrict__ scratch, int batch) {
    SHARED_MEMORY(memory);
    float* shared = reinterpret_cast<float*>(memory);
    Descent descent = {weights, momentum, *rate, keep, decay};
    int tile = blockIdx.x;
    if (tile < BLOCKS1)
        return update_layer<FEATURES, HIDDEN1, HIDDEN1, FC1, FC1_BIAS>(
            tile, descent, shared, scratch + SLOPE1_AT * batch, scratch + FEATURES_AT * batch, batch);
    tile -= BLOCKS1;
    if (tile < BLOCKS2)
        return update_layer<HIDDEN1, HIDDEN2, HIDDEN2, FC2, FC2_BIAS>(
            tile, descent, shared, scratch + SLOPE2_AT * batch, scratch + HIDDEN1_AT * batch, batch);
    tile -= BLOCKS2;
    if (tile < BLOCKS3)
        return update_layer<HIDDEN2, CLASSES, SLOPE3, FC3, FC3_BIAS>(
            tile, descent, shared, scratch + SLOPE3_AT * batch, scratch + HIDDEN2_AT * batch, batch);
    update_convolutions(tile - BLOCKS3, descent, shared, scratch + PARTS_AT * batch, batch);
}
