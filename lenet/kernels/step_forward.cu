// A step of training in four kernels, in IEEE single precision: every multiply-add is an FFMA. One more makes the images of
// many steps. The last two kernels are in step_back.cu.
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
// A delta is the gradient of the loss by a value before its ReLU. No sum depends on the order of threads or blocks: the same
// step gives the same bits.
//
// Weights and momentum lie in PyTorch's order and layout, one parameter behind the other. What a kernel leaves to the next
// lies in the scratch memory, SCRATCH floats an image: one field behind the other, each of them [image][...].

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
constexpr int DELTA0_AT = HIDDEN2_AT + HIDDEN2, DELTA1_AT = DELTA0_AT + FEATURES;  // of what comes before each ReLU
constexpr int DELTA2_AT = DELTA1_AT + HIDDEN1, DELTA3_AT = DELTA2_AT + HIDDEN2, DELTA3 = 12;  // 10, padded to 16 bytes
constexpr int PARTS_AT = DELTA3_AT + DELTA3;                        // the image's gradients of the convolutions
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
__device__ __forceinline__ float pool_max(float a, float b, float c, float d, int& choice) {
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

// conv1: a thread has two windows side by side (2 rows x 4 columns) of two maps. conv2: a window of one map, so 400 threads
// work; 416 are 13 warps.
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
        float value = pool_max(s[0][x], s[0][x + 1], s[1][x], s[1][x + 1], choice);
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
    float value = pool_max(sums[0][0], sums[0][1], sums[1][0], sums[1][1], choice);
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
    __syncthreads();  // pixels and weights are there

    unsigned char* choices1 = reinterpret_cast<unsigned char*>(scratch + CHOICES1_AT * batch) + image * ALL1;
    unsigned char* choices2 = reinterpret_cast<unsigned char*>(scratch + CHOICES2_AT * batch) + image * FEATURES;
    if (threadIdx.x < PLACES * GROUPS) convolve1(threadIdx.x, weights1, bias1, pixels, maps, choices1);
    __syncthreads();  // all maps are there
    if (threadIdx.x < FEATURES)
        convolve2(threadIdx.x, weights2, bias2, maps, scratch + FEATURES_AT * batch + image * FEATURES, choices2);
    copy(scratch + MAPS_AT * batch + image * ALL1, maps, ALL1, THREADS);
}

// The fully connected layers of SHARED_IMAGES images. Forward a warp takes 8 outputs, and its lanes the inputs: 16 warps take
// fc1's 120. Back a thread takes an input. Each layer's weights are loaded many at a time: they come from L2.
constexpr int CLASSIFY_THREADS = 512, SHARED_IMAGES = 4, ROWS_A_WARP = WARP / SHARED_IMAGES;

// Reduces 32 sums over a warp: lane i gets sum i, as sums[0]. At each step a lane gives half of its sums to its partner and
// adds what it gets to the other half.
template <int HALF>
__device__ __forceinline__ void reduce_warp(float (&sums)[WARP], int lane) {
    bool upper = lane & HALF;
#pragma unroll
    for (int i = 0; i < HALF; ++i) {
        float passed = upper ? sums[i] : sums[i + HALF], kept = upper ? sums[i + HALF] : sums[i];
        sums[i] = kept + from_lane_xor(passed, HALF);
    }
    if constexpr (HALF > 1) reduce_warp<HALF / 2>(sums, lane);
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
        reduce_warp<WARP / 2>(sums, lane);
        int output = first + lane / SHARED_IMAGES;
        if (output < OUTPUTS) outputs[lane % SHARED_IMAGES * OUTPUTS + output] = sums[0] + bias[output];
    }
    __syncthreads();  // all outputs are there
}

// The deltas of a layer's inputs, from those of its outputs. Loads come in groups that divide the 120 and 84 outputs.
template <int INPUTS, int OUTPUTS, int PITCH>
__device__ __forceinline__ void backward(float* to, const float* weights, const float* delta, const float* inputs) {
    int k = threadIdx.x;
    if (k < INPUTS) {
        float sums[SHARED_IMAGES] = {};
#pragma unroll(OUTPUTS % 20 ? 21 : 20)
        for (int output = 0; output < OUTPUTS; ++output) {
            float w = weights[output * INPUTS + k];
#pragma unroll
            for (int image = 0; image < SHARED_IMAGES; ++image) sums[image] += w * delta[image * PITCH + output];
        }
#pragma unroll
        for (int image = 0; image < SHARED_IMAGES; ++image)
            to[image * INPUTS + k] = inputs[image * INPUTS + k] > 0.0f ? sums[image] : 0.0f;
    }
    __syncthreads();  // all deltas are there
}

// The gradient of the batch's mean cross-entropy by each logit: softmax, minus one at the label, over the batch.
__device__ __forceinline__ void cross_entropy_delta(float* delta, const float* logits, int label, int batch) {
    float most = logits[0], total = 0.0f;
#pragma unroll
    for (int i = 1; i < CLASSES; ++i) most = fmaxf(most, logits[i]);
#pragma unroll
    for (int i = 0; i < CLASSES; ++i) total += expf(logits[i] - most);
#pragma unroll
    for (int i = 0; i < CLASSES; ++i) delta[i] = (expf(logits[i] - most) / total - (i == label ? 1.0f : 0.0f)) / batch;
}

extern "C" __global__ void __launch_bounds__(CLASSIFY_THREADS)
    classify(const long long* __restrict__ labels, const float* __restrict__ weights, float* __restrict__ scratch,
             float* __restrict__ logits, int batch) {
    SHARED_MEMORY(memory);
    constexpr int THREADS = CLASSIFY_THREADS;
    float *features = reinterpret_cast<float*>(memory), *hidden1 = features + SHARED_IMAGES * FEATURES;
    float *hidden2 = hidden1 + SHARED_IMAGES * HIDDEN1, *delta0 = hidden2 + SHARED_IMAGES * HIDDEN2;
    float *delta1 = delta0 + SHARED_IMAGES * FEATURES, *delta2 = delta1 + SHARED_IMAGES * HIDDEN1;
    float *delta3 = delta2 + SHARED_IMAGES * HIDDEN2, *outputs = delta3 + SHARED_IMAGES * DELTA3;
    int first = blockIdx.x * SHARED_IMAGES, count = min(SHARED_IMAGES, batch - first);

    const float* from = scratch + FEATURES_AT * batch + first * FEATURES;
#pragma unroll
    for (int i = threadIdx.x; i < SHARED_IMAGES * FEATURES; i += THREADS) features[i] = i < count * FEATURES ? from[i] : 0.0f;
    __syncthreads();  // all features are there
    multiply<FEATURES, HIDDEN1>(hidden1, weights + FC1, weights + FC1_BIAS, features);
    if (threadIdx.x < SHARED_IMAGES * HIDDEN1) hidden1[threadIdx.x] = relu(hidden1[threadIdx.x]);
    __syncthreads();  // a warp reads all of hidden1
    multiply<HIDDEN1, HIDDEN2>(hidden2, weights + FC2, weights + FC2_BIAS, hidden1);
    if (threadIdx.x < SHARED_IMAGES * HIDDEN2) hidden2[threadIdx.x] = relu(hidden2[threadIdx.x]);
    __syncthreads();  // a warp reads all of hidden2
    multiply<HIDDEN2, CLASSES>(outputs, weights + FC3, weights + FC3_BIAS, hidden2);
    if (threadIdx.x < count * CLASSES) logits[first * CLASSES + threadIdx.x] = outputs[threadIdx.x];
    if (threadIdx.x < SHARED_IMAGES) {
        int label = threadIdx.x < count ? int(labels[first + threadIdx.x]) : 0;
        cross_entropy_delta(delta3 + threadIdx.x * DELTA3, outputs + threadIdx.x * CLASSES, label, batch);
    }
    __syncthreads();  // the logits' gradients are there
    backward<HIDDEN2, CLASSES, DELTA3>(delta2, weights + FC3, delta3, hidden2);
    backward<HIDDEN1, HIDDEN2, HIDDEN2>(delta1, weights + FC2, delta2, hidden1);
    backward<FEATURES, HIDDEN1, HIDDEN1>(delta0, weights + FC1, delta1, features);

    copy(scratch + HIDDEN1_AT * batch + first * HIDDEN1, hidden1, count * HIDDEN1, THREADS);
    copy(scratch + HIDDEN2_AT * batch + first * HIDDEN2, hidden2, count * HIDDEN2, THREADS);
    copy(scratch + DELTA0_AT * batch + first * FEATURES, delta0, count * FEATURES, THREADS);
    copy(scratch + DELTA1_AT * batch + first * HIDDEN1, delta1, count * HIDDEN1, THREADS);
    copy(scratch + DELTA2_AT * batch + first * HIDDEN2, delta2, count * HIDDEN2, THREADS);
    copy(scratch + DELTA3_AT * batch + first * DELTA3, delta3, count * DELTA3, THREADS);
}
