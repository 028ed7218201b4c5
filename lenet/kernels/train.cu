// A step of training in four kernels, in IEEE single precision: every multiply-add is an FFMA. One more makes its images.
//
//     augment         a block an image      crop, flip and normalise
//
//     convolve        a block an image      both convolutions with pool and ReLU
//     classify        a block 4 images      the fully connected layers forward, the loss, and back to the features
//     differentiate   a block an image      back through the convolutions: the image's own gradients of their weights
//     update          a block 256 weights   the sum over the batch, and SGD with momentum and weight decay
//
// A 2x2 pool passes its gradient to one of four outputs. So back through a convolution a quarter of its multiplications
// are left, and those of a dead ReLU are skipped:
//
//     forward          conv1 352,800   conv2 240,000   fc 58,920 multiply-adds an image
//     weights' share   conv1  88,200   conv2  60,000   fc 58,920
//     inputs' share                    conv2  60,000   fc 58,920
//
// No sum depends on the order of threads or blocks: the same step gives the same bits.
//
// Weights and momentum lie in PyTorch's order and layout, one parameter behind the other. SCRATCH floats an image of global
// memory pass from kernel to kernel, each field for the whole batch: "image * its width" from where it begins.

constexpr int TAPS = KERNEL * KERNEL, MAP1 = POOLED1, ALL1 = MAPS1 * MAP1;
constexpr int CONV1 = 0, CONV1_BIAS = CONV1 + MAPS1 * CHANNELS * TAPS;
constexpr int CONV2 = CONV1_BIAS + MAPS1, CONV2_BIAS = CONV2 + MAPS2 * MAPS1 * TAPS;
constexpr int FC1 = CONV2_BIAS + MAPS2, FC1_BIAS = FC1 + HIDDEN1 * FEATURES;
constexpr int FC2 = FC1_BIAS + HIDDEN1, FC2_BIAS = FC2 + HIDDEN2 * HIDDEN1;
constexpr int FC3 = FC2_BIAS + HIDDEN2, FC3_BIAS = FC3 + CLASSES * HIDDEN2;
constexpr int CONVOLUTIONS = FC1;  // weights and biases

// The fields of the scratch memory, in floats an image.
constexpr int MAPS_AT = 0, FEATURES_AT = MAPS_AT + ALL1, HIDDEN1_AT = FEATURES_AT + FEATURES;
constexpr int HIDDEN2_AT = HIDDEN1_AT + HIDDEN1;
constexpr int SLOPE0_AT = HIDDEN2_AT + HIDDEN2, SLOPE1_AT = SLOPE0_AT + FEATURES;  // of what comes before each ReLU
constexpr int SLOPE2_AT = SLOPE1_AT + HIDDEN1, SLOPE3_AT = SLOPE2_AT + HIDDEN2, SLOPE3 = 12;
constexpr int PARTS_AT = SLOPE3_AT + SLOPE3;                        // the image's gradients of the convolutions
constexpr int CHOICES1_AT = PARTS_AT + CONVOLUTIONS;                // which of four a pool chose, as bytes
constexpr int CHOICES2_AT = CHOICES1_AT + ALL1 / 4;
static_assert(SCRATCH == CHOICES2_AT + FEATURES / 4, "the caller's floats an image");

// A comparison with NaN is false: NaNs stay, so that a training that diverges shows.
__device__ __forceinline__ float relu(float x) { return x < 0.0f ? 0.0f : x; }
__device__ __forceinline__ float4 quad(const float* from) { return *reinterpret_cast<const float4*>(from); }
__device__ __forceinline__ void load4(float* to, const float* from) {
    float4 v = quad(from);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

__device__ __forceinline__ void copy(float* to, const float* from, int count, int threads) {
#pragma unroll 4
    for (int i = threadIdx.x; i < count; i += threads) to[i] = from[i];
}

// The first of the largest of four; `choice` says which.
__device__ __forceinline__ float largest(float a, float b, float c, float d, int& choice) {
    choice = 0;
    if (b > a) a = b, choice = 1;
    if (c > a) a = c, choice = 2;
    if (d > a) a = d, choice = 3;
    return a;
}

// Crops at its own offsets each image that `order` names, mirrors and normalises it. Black lies around the images.
constexpr int AUGMENT_THREADS = 256;
extern "C" __global__ void __launch_bounds__(AUGMENT_THREADS)
    augment(const unsigned char* __restrict__ images, const long long* __restrict__ order, const long long* __restrict__ top,
            const long long* __restrict__ left, const bool* __restrict__ flip, int padding, const float* __restrict__ scale,
            const float* __restrict__ shift, float* __restrict__ to) {
    int image = blockIdx.x, row = int(top[image]) - padding, column = int(left[image]) - padding;
    const unsigned char* from = images + order[image] * PIXELS;
#pragma unroll 4
    for (int i = threadIdx.x; i < PIXELS; i += AUGMENT_THREADS) {
        int channel = i / (SIZE * SIZE), x = i % SIZE;
        int y_from = row + i / SIZE % SIZE, x_from = column + (flip[image] ? SIZE - 1 - x : x);
        bool inside = 0 <= y_from && y_from < SIZE && 0 <= x_from && x_from < SIZE;
        int pixel = inside ? from[channel * SIZE * SIZE + y_from * SIZE + x_from] : 0;
        to[static_cast<long long>(image) * PIXELS + i] = pixel * scale[channel] + shift[channel];
    }
}

// conv1: a thread has two windows side by side (2 rows x 4 columns) of two maps. conv2: a window of one map.
constexpr int CONVOLVE_THREADS = 416, MAPS_A_THREAD = 2, GROUPS = MAPS1 / MAPS_A_THREAD, ROW1 = 12;
constexpr int PLACES = SIDE1 * SIDE1 / 2, GROUP1 = CHANNELS * KERNEL * ROW1, FILTER2 = 28;

__device__ __forceinline__ void convolve1(int tile, const float* weights, const float* bias, const float* pixels,
                                          float* maps, unsigned char* choices) {
    int group = tile / PLACES, row = tile % PLACES / (SIDE1 / 2), pair = tile % (SIDE1 / 2);
    const float *from = pixels + 2 * row * SIZE + 4 * pair, *w = weights + group * GROUP1;
    float sums[MAPS_A_THREAD][2][4] = {};
#pragma unroll 1
    for (int channel = 0; channel < CHANNELS; ++channel, from += SIZE * SIZE) {
#pragma unroll
        for (int r = 0; r < KERNEL; ++r, w += ROW1) {
            float in[2][8], v[ROW1];
#pragma unroll
            for (int i = 0; i < 4; ++i) load4(in[i / 2] + i % 2 * 4, from + (r + i / 2) * SIZE + i % 2 * 4);
#pragma unroll
            for (int i = 0; i < ROW1; i += 4) load4(v + i, w + i);
#pragma unroll
            for (int i = 0; i < MAPS_A_THREAD * KERNEL * 8; ++i) {
                int map = i / (8 * KERNEL), k = i / 8 % KERNEL, y = i / 4 % 2, x = i % 4;
                sums[map][y][x] += v[map * KERNEL + k] * in[y][x + k];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 2 * MAPS_A_THREAD; ++i) {
        int map = group * MAPS_A_THREAD + i / 2, x = i % 2 * 2, choice;
        const float(&s)[2][4] = sums[i / 2];
        float value = largest(s[0][x], s[0][x + 1], s[1][x], s[1][x + 1], choice);
        int to = map * MAP1 + row * SIDE1 + 2 * pair + i % 2;
        maps[to] = relu(value + bias[map]), choices[to] = choice;
    }
}

__device__ __forceinline__ void convolve2(int tile, const float* weights, const float* bias, const float* maps,
                                          float* features, unsigned char* choices) {
    int map = tile / POOLED2, row = tile % POOLED2 / SIDE2, column = tile % SIDE2;
    const float *from = maps + 2 * row * SIDE1 + 2 * column, *filter = weights + map * MAPS1 * FILTER2;
    float sums[2][2] = {};
#pragma unroll 1
    for (int channel = 0; channel < MAPS1; ++channel, from += MAP1, filter += FILTER2) {
        float w[FILTER2];
#pragma unroll
        for (int i = 0; i < FILTER2; i += 4) load4(w + i, filter + i);
#pragma unroll
        for (int r = 0; r < KERNEL + 1; ++r) {
            float in[KERNEL + 1];
#pragma unroll
            for (int x = 0; x < KERNEL + 1; x += 2) {
                float2 two = *reinterpret_cast<const float2*>(from + r * SIDE1 + x);
                in[x] = two.x, in[x + 1] = two.y;
            }
#pragma unroll
            for (int i = 0; i < 2 * KERNEL; ++i) {
                int k = i / 2, x = i % 2;
                if (r < KERNEL) sums[0][x] += w[r * KERNEL + k] * in[x + k];
                if (r > 0) sums[1][x] += w[(r - 1) * KERNEL + k] * in[x + k];
            }
        }
    }
    int choice;
    float value = largest(sums[0][0], sums[0][1], sums[1][0], sums[1][1], choice);
    features[tile] = relu(value + bias[map]), choices[tile] = choice;
}

extern "C" __global__ void __launch_bounds__(CONVOLVE_THREADS)
    convolve(const float* __restrict__ images, const float* __restrict__ weights, float* __restrict__ scratch, int batch) {
    SHARED_MEMORY(memory);
    constexpr int THREADS = CONVOLVE_THREADS;
    float *pixels = reinterpret_cast<float*>(memory), *maps = pixels + PIXELS, *weights1 = maps + ALL1;
    float *weights2 = weights1 + GROUPS * GROUP1, *bias1 = weights2 + MAPS2 * MAPS1 * FILTER2, *bias2 = bias1 + MAPS1;
    int image = blockIdx.x;

    const float4* from = reinterpret_cast<const float4*>(images) + image * (PIXELS / 4);
#pragma unroll
    for (int i = threadIdx.x; i < PIXELS / 4; i += THREADS) reinterpret_cast<float4*>(pixels)[i] = from[i];
#pragma unroll 2
    for (int i = threadIdx.x; i < MAPS1 * CHANNELS * TAPS; i += THREADS) {
        int map = i / (CHANNELS * TAPS), row = i % (CHANNELS * TAPS) / KERNEL;
        weights1[map / MAPS_A_THREAD * GROUP1 + row * ROW1 + map % MAPS_A_THREAD * KERNEL + i % KERNEL] = weights[CONV1 + i];
    }
#pragma unroll 6
    for (int i = threadIdx.x; i < MAPS2 * MAPS1 * TAPS; i += THREADS) weights2[i / TAPS * FILTER2 + i % TAPS] = weights[CONV2 + i];
    copy(bias1, weights + CONV1_BIAS, MAPS1, THREADS);
    copy(bias2, weights + CONV2_BIAS, MAPS2, THREADS);
    __syncthreads();

    unsigned char* choices1 = reinterpret_cast<unsigned char*>(scratch + CHOICES1_AT * batch) + image * ALL1;
    unsigned char* choices2 = reinterpret_cast<unsigned char*>(scratch + CHOICES2_AT * batch) + image * FEATURES;
    if (threadIdx.x < PLACES * GROUPS) convolve1(threadIdx.x, weights1, bias1, pixels, maps, choices1);
    __syncthreads();
    if (threadIdx.x < FEATURES)
        convolve2(threadIdx.x, weights2, bias2, maps, scratch + FEATURES_AT * batch + image * FEATURES, choices2);
    copy(scratch + MAPS_AT * batch + image * ALL1, maps, ALL1, THREADS);
}

// The fully connected layers of SHARED_IMAGES images. Forward a warp takes 8 outputs, and its lanes the inputs; back a
// thread takes an input. Each layer's weights are loaded many at a time: they come from L2.
constexpr int CLASSIFY_THREADS = 512, SHARED_IMAGES = 4, ROWS_A_WARP = WARP / SHARED_IMAGES;

// Adds up 32 sums over a warp: lane i gets sum i, as sums[0]. A lane passes one half of its sums to another, adds the other's
// to the other half, and goes on with these.
template <int HALF>
__device__ __forceinline__ void add_up(float (&sums)[WARP], int lane) {
    bool upper = lane & HALF;
#pragma unroll
    for (int i = 0; i < HALF; ++i) {
        float passed = upper ? sums[i] : sums[i + HALF], kept = upper ? sums[i + HALF] : sums[i];
        sums[i] = kept + from_lane_xor(passed, HALF);
    }
    if constexpr (HALF > 1) add_up<HALF / 2>(sums, lane);
}

// outputs = weights x inputs + bias, each [image][...]
template <int INPUTS, int OUTPUTS>
__device__ __forceinline__ void multiply(float* outputs, const float* weights, const float* bias, const float* inputs) {
    static_assert(OUTPUTS <= CLASSIFY_THREADS / WARP * ROWS_A_WARP, "more outputs than the warps take");
    int lane = threadIdx.x % WARP, first = threadIdx.x / WARP * ROWS_A_WARP;
    if (first < OUTPUTS) {
        float sums[WARP] = {};  // [output][image]
#pragma unroll
        for (int from = 0; from < INPUTS; from += 4 * WARP) {
            int k = from + 4 * lane;
            if (k >= INPUTS) continue;
            float4 w[ROWS_A_WARP];
#pragma unroll
            for (int row = 0; row < ROWS_A_WARP; ++row) w[row] = quad(weights + min(first + row, OUTPUTS - 1) * INPUTS + k);
#pragma unroll
            for (int i = 0; i < WARP; ++i) {
                float4 v = w[i / SHARED_IMAGES], in = quad(inputs + i % SHARED_IMAGES * INPUTS + k);
                sums[i] += v.x * in.x + v.y * in.y + v.z * in.z + v.w * in.w;
            }
        }
        add_up<WARP / 2>(sums, lane);
        int output = first + lane / SHARED_IMAGES;
        if (output < OUTPUTS) outputs[lane % SHARED_IMAGES * OUTPUTS + output] = sums[0] + bias[output];
    }
    __syncthreads();
}

// The slope of the loss before a ReLU, from that of the layer which has its values as inputs.
template <int INPUTS, int OUTPUTS, int PITCH>
__device__ __forceinline__ void go_back(float* to, const float* weights, const float* slope, const float* inputs) {
    int k = threadIdx.x;
    if (k < INPUTS) {
        float sums[SHARED_IMAGES] = {};
#pragma unroll(OUTPUTS % 20 ? 21 : 20)
        for (int output = 0; output < OUTPUTS; ++output) {
            float w = weights[output * INPUTS + k];
#pragma unroll
            for (int image = 0; image < SHARED_IMAGES; ++image) sums[image] += w * slope[image * PITCH + output];
        }
#pragma unroll
        for (int image = 0; image < SHARED_IMAGES; ++image)
            to[image * INPUTS + k] = inputs[image * INPUTS + k] > 0.0f ? sums[image] : 0.0f;
    }
    __syncthreads();
}

// The slope of the batch's mean cross-entropy by each logit: softmax less one at the label, over the batch.
__device__ __forceinline__ void find_slope(float* slope, const float* logits, int label, int batch) {
    float most = logits[0], total = 0.0f;
#pragma unroll
    for (int i = 1; i < CLASSES; ++i) most = fmaxf(most, logits[i]);
#pragma unroll
    for (int i = 0; i < CLASSES; ++i) total += expf(logits[i] - most);
#pragma unroll
    for (int i = 0; i < CLASSES; ++i) slope[i] = (expf(logits[i] - most) / total - (i == label ? 1.0f : 0.0f)) / batch;
}

extern "C" __global__ void __launch_bounds__(CLASSIFY_THREADS)
    classify(const long long* __restrict__ labels, const float* __restrict__ weights, float* __restrict__ scratch,
             float* __restrict__ logits, int batch) {
    SHARED_MEMORY(memory);
    constexpr int THREADS = CLASSIFY_THREADS;
    float *features = reinterpret_cast<float*>(memory), *hidden1 = features + SHARED_IMAGES * FEATURES;
    float *hidden2 = hidden1 + SHARED_IMAGES * HIDDEN1, *slope0 = hidden2 + SHARED_IMAGES * HIDDEN2;
    float *slope1 = slope0 + SHARED_IMAGES * FEATURES, *slope2 = slope1 + SHARED_IMAGES * HIDDEN1;
    float *slope3 = slope2 + SHARED_IMAGES * HIDDEN2, *outputs = slope3 + SHARED_IMAGES * SLOPE3;
    int first = blockIdx.x * SHARED_IMAGES, count = min(SHARED_IMAGES, batch - first);

    const float* from = scratch + FEATURES_AT * batch + first * FEATURES;
#pragma unroll
    for (int i = threadIdx.x; i < SHARED_IMAGES * FEATURES; i += THREADS) features[i] = i < count * FEATURES ? from[i] : 0.0f;
    __syncthreads();
    multiply<FEATURES, HIDDEN1>(hidden1, weights + FC1, weights + FC1_BIAS, features);
    if (threadIdx.x < SHARED_IMAGES * HIDDEN1) hidden1[threadIdx.x] = relu(hidden1[threadIdx.x]);
    __syncthreads();
    multiply<HIDDEN1, HIDDEN2>(hidden2, weights + FC2, weights + FC2_BIAS, hidden1);
    if (threadIdx.x < SHARED_IMAGES * HIDDEN2) hidden2[threadIdx.x] = relu(hidden2[threadIdx.x]);
    __syncthreads();
    multiply<HIDDEN2, CLASSES>(outputs, weights + FC3, weights + FC3_BIAS, hidden2);
    if (threadIdx.x < count * CLASSES) logits[first * CLASSES + threadIdx.x] = outputs[threadIdx.x];
    if (threadIdx.x < SHARED_IMAGES) {
        int label = threadIdx.x < count ? int(labels[first + threadIdx.x]) : 0;
        find_slope(slope3 + threadIdx.x * SLOPE3, outputs + threadIdx.x * CLASSES, label, batch);
    }
    __syncthreads();
    go_back<HIDDEN2, CLASSES, SLOPE3>(slope2, weights + FC3, slope3, hidden2);
    go_back<HIDDEN1, HIDDEN2, HIDDEN2>(slope1, weights + FC2, slope2, hidden1);
    go_back<FEATURES, HIDDEN1, HIDDEN1>(slope0, weights + FC1, slope1, features);

    copy(scratch + HIDDEN1_AT * batch + first * HIDDEN1, hidden1, count * HIDDEN1, THREADS);
    copy(scratch + HIDDEN2_AT * batch + first * HIDDEN2, hidden2, count * HIDDEN2, THREADS);
    copy(scratch + SLOPE0_AT * batch + first * FEATURES, slope0, count * FEATURES, THREADS);
    copy(scratch + SLOPE1_AT * batch + first * HIDDEN1, slope1, count * HIDDEN1, THREADS);
    copy(scratch + SLOPE2_AT * batch + first * HIDDEN2, slope2, count * HIDDEN2, THREADS);
    copy(scratch + SLOPE3_AT * batch + first * SLOPE3, slope3, count * SLOPE3, THREADS);
}

// Back through the convolutions of an image, by 24 warps. A tap is a place in a kernel.
//
//     conv2's weights   a warp has a map (16), a lane a row of taps of an input map
//     conv2's inputs    a warp has an input map and a quarter of the maps, a lane a tap: it adds to 25 inputs at a time
//     conv1's weights   a warp has two maps and an eighth of the places, a lane a row of taps of a channel
constexpr int WARPS3 = 24, DIFFERENTIATE_THREADS = WARPS3 * WARP;
constexpr int QUARTERS = WARPS3 / MAPS1, EIGHTHS = WARPS3 / (MAPS1 / 2), PLACES_EACH = ceil_div(MAP1, EIGHTHS);
constexpr int PIXEL_ROW = 33, PIXEL_PLANE = 1061;  // in 15 banks lie what 15 rows of taps read
constexpr int GRADIENT1 = CONV2;                   // conv1's weights and biases

__device__ __forceinline__ void find_weights2(float* gradient, const float* slope, const int* places, const float* maps) {
    int map = threadIdx.x / WARP, lane = threadIdx.x % WARP, input = lane / KERNEL, row = lane % KERNEL;
    if (map >= MAPS2 || input >= MAPS1) return;
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
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, input = warp % MAPS1, quarter = warp / MAPS1;
    float* map_to = to + quarter * ALL1 + input * MAP1;
#pragma unroll
    for (int i = lane; i < MAP1; i += WARP) map_to[i] = 0.0f;
    __syncwarp();
    map_to += lane / KERNEL * SIDE1 + lane % KERNEL;
#pragma unroll 1
    for (int map = quarter * (MAPS2 / QUARTERS); map < (quarter + 1) * (MAPS2 / QUARTERS); ++map) {
        float w = lane < TAPS ? weights[(map * MAPS1 + input) * TAPS + lane] : 0.0f;
#pragma unroll 1
        for (int first = map * POOLED2; first < (map + 1) * POOLED2; first += SIDE2) {
            float s[SIDE2];
            int place[SIDE2];
#pragma unroll
            for (int i = 0; i < SIDE2; ++i) s[i] = slope[first + i], place[i] = places[first + i];
#pragma unroll
            for (int i = 0; i < SIDE2; ++i) {
                if (s[i] == 0.0f) continue;  // the whole warp
                if (lane < TAPS) map_to[place[i]] += s[i] * w;
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
