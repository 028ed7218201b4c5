// The quantised LeNet's layers: int8 products with int32 sums, or e4m3 products with float32 sums.
//
// The network is `lenet.quantization`'s. A layer's output becomes the next layer's input in 8 bits at once: scaled by one
// fma, rounded to nearest even and saturated. Max-pools come before, ReLUs are the saturation at 0: both commute with
// rounding.
//
// Each layer is a matrix product whose depth comes in blocks of 16 bytes: four words of four numbers, one word a lane of
// four. Two blocks are one `mma` of depth 32.
//
//   conv1: rows are pairs of windows of the pool, side by side, and columns the 6 maps at the two windows' 8 places. A
//          pair sees 6x8 pixels x 3 channels, whose rows begin at a whole word: 9 blocks of 2 rows x 2 words. The weights,
//          moved to the 8 places among zeros, are the b operand and stay in registers (54). A lane gets all 4 places of
//          3 maps of one window. Rows are 8 words: those of 8 pairs x 4 lanes lie in different banks, or are the same.
//
//   conv2: rows are the 16 maps, columns 8 windows. A chunk of the maps is two neighbours of a row x 8 channels (6 and two
//          of zeros), and one block of the depth. The 6x6 places that a window sees are 18 chunks, one register a lane
//          (`ldmatrix`). Places to the right of others see the same chunks: their weights are moved by one.
//
//   fc1-3: rows are outputs, columns images (8). Two warps share a block of fc1's outputs, half of the depth each.
//
// Rows of the weights are in such an order that a lane's two rows are neighbours (`_a_fragments` in
// `lenet.kernels.quantized`).
//
// The chunk of maps at row y and columns 2x, 2x + 1 is (y % 2 * 7 + y / 2) * 13 + x: a window's next neighbour is the next
// chunk, the window below 13 = 5 (mod 8) chunks on, and the next image 185 = 25 (mod 8), as `ldmatrix` wants.
//
// Macros: IMAGES, BYTES (input is uint8), SHARED_BYTES (of a block), WARPS, E4M3 (not int8).

constexpr int THREADS = 32 * WARPS;
constexpr int UNITS = IMAGES > 2 ? 2 : 1;  // of 8 windows, which a warp has of conv2 at a time

// Depths, in blocks of 16 bytes, and blocks of 16 outputs.
constexpr int BLOCKS1 = 9, TILES1 = 6, BLOCKS2 = 15;
constexpr int ROWS3 = 8, BLOCKS3 = MAPS2 * POOLED2 / 16, ROWS4 = 6, BLOCKS4 = 8, ROWS5 = 1, BLOCKS5 = 6;

// Parameters, in chunks of 16 bytes; `pack` of `lenet.kernels.quantized` writes them. A scaling is a factor and an offset.
// All but the pixels' come into shared memory in this order: CONSTANTS, then what the fully connected layers multiply by.
constexpr int PIXEL_SCALINGS = 2;                                   // three
constexpr int BLOCK = 16;                                           // 16 rows and depth 16
constexpr int WEIGHTS1 = BLOCKS1 * TILES1 * BLOCK / 2;              // 8 columns
constexpr int CONV2 = WEIGHTS1, WEIGHTS2 = 2 * BLOCKS2 * BLOCK;
constexpr int SCALING1 = 0, SCALING2 = SCALING1 + MAPS1, SCALING3 = SCALING2 + MAPS2;
constexpr int SCALING4 = SCALING3 + 16 * ROWS3, SCALING5 = SCALING4 + 16 * ROWS4;
constexpr int SCALINGS_AT = CONV2 + WEIGHTS2;
constexpr int CONSTANTS = SCALINGS_AT + (SCALING5 + 16 * ROWS5) / 2;
constexpr int FC1 = CONSTANTS, WEIGHTS3 = ROWS3 * BLOCKS3 * BLOCK;
constexpr int FC2 = FC1 + WEIGHTS3, WEIGHTS4 = ROWS4 * BLOCKS4 * BLOCK;
constexpr int FC3 = FC2 + WEIGHTS4, WEIGHTS5 = ROWS5 * BLOCKS5 * BLOCK;
constexpr int ALL = FC3 + WEIGHTS5;

// What lies in shared memory. Rows of the fully connected layers' inputs are padded so that the 8 images' words lie in
// different banks.
constexpr int ROW = SIZE / 4, PLANE = SIZE * ROW;            // of pixels, in words
constexpr int MAP_ROW = 13, MAP_CHUNKS = 185;                // in chunks
constexpr int STRIDE3 = 25, STRIDE4 = 9, STRIDE5 = 7;

// The largest of a convolution's sums at the four places of a window, scaled.
__device__ __forceinline__ float pooled(Sum a, Sum b, Sum c, Sum d, float2 scaling) {
    float largest = max4(as_float(a), as_float(b), as_float(c), as_float(d)) - Format<E4M3>::START_AS_FLOAT;
    return fmaf(largest, scaling.x, scaling.y);
}

constexpr unsigned PAIRS = POOLED1 / 2;

struct Conv1 {
    unsigned weights[BLOCKS1][TILES1];
    const float2* scalings;  // of a lane's three maps

    __device__ __forceinline__ void load(const uint4* constants) {
        unsigned lane = threadIdx.x % 32;
        const uint2* from = reinterpret_cast<const uint2*>(constants) + lane;
#pragma unroll
        for (int i = 0; i < BLOCKS1 * TILES1 / 2; ++i) {
            uint2 two = from[32 * i];
            weights[2 * i / TILES1][2 * i % TILES1] = two.x, weights[2 * i / TILES1][2 * i % TILES1 + 1] = two.y;
        }
        scalings = reinterpret_cast<const float2*>(constants + SCALINGS_AT) + SCALING1 + lane % 4 / 2 * 3;
    }

    // 16 pairs of windows of the pool: lanes 4r + c have the sums of pairs r and r + 8, of the window c % 2 of each, and of
    // maps c / 2 * 3 to c / 2 * 3 + 2.
    __device__ __forceinline__ void tile(unsigned tile, const unsigned* pixels, unsigned* maps) const {
        unsigned group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
        const unsigned* words[2];
        unsigned chunks[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            unsigned number = min(tile * 16 + group + 8 * half, PAIRS - 1);
            unsigned y = number / (SIDE1 / 2), x = number % (SIDE1 / 2);
            words[half] = pixels + (2 * y + member / 2) * ROW + x + member % 2;
            chunks[half] = (y % 2 * 7 + y / 2) * MAP_ROW + x;
        }
        Sum sums[TILES1][4];
#pragma unroll
        for (int i = 0; i < TILES1 * 4; ++i) sums[i / 4][i % 4] = START;
#pragma unroll
        for (int block = 0; block < BLOCKS1; block += 2) {
            uint2 first = at(words, block), second = at(words, block + 1);
            AOperand a = a_operand(make_uint4(first.x, first.y, second.x, second.y));
#pragma unroll
            for (int i = 0; i < TILES1; ++i)
                if (block + 1 < BLOCKS1)
                    product(sums[i], a, weights[block][i], weights[block + 1][i]);
                else
                    product(sums[i], a, weights[block][i]);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float values[3];
#pragma unroll
            for (int i = 0; i < 3; ++i) {
                const Sum(&above)[4] = sums[2 * i], (&below)[4] = sums[2 * i + 1];
                values[i] = pooled(above[2 * half], above[2 * half + 1], below[2 * half], below[2 * half + 1], scalings[i]);
            }
            maps[4 * chunks[half] + member % 2 * 2 + member / 2] = quantize<true>(values[0], values[1], values[2], 0.0f);
        }
    }
    static __device__ __forceinline__ uint2 at(const unsigned* const (&words)[2], int block) {
        int offset = min(block, BLOCKS1 - 1) / 3 * PLANE + min(block, BLOCKS1 - 1) % 3 * 2 * ROW;
        return make_uint2(words[0][offset], words[1][offset]);
    }
};

// What 8 windows of conv2's pool see, and their sums.
struct Windows {
    unsigned seen[6][4];  // the last column is nobody's
    Sum sums[4][4];

    __device__ __forceinline__ void begin(unsigned unit, const uint4* maps) {
        unsigned lane = threadIdx.x % 32;
        unsigned window = min(unit * 8 + lane % 8, IMAGES * POOLED2 - 1u);
        const uint4* from = maps + window / POOLED2 * MAP_CHUNKS + window % POOLED2 / SIDE2 * MAP_ROW + window % SIDE2 +
                            lane / 8 % 2 * (7 * MAP_ROW);
#pragma unroll
        for (int x = 0; x < 3; ++x) {
            unsigned four[4];
            load_matrices(four, from + lane / 16 * MAP_ROW + x);
            for (int y = 0; y < 4; ++y) seen[y][x] = four[y];
        }
#pragma unroll
        for (int x = 0; x < 3; x += 2) {
            unsigned four[4];
            load_matrices(four, from + 2 * MAP_ROW + lane / 16 + x);
            for (int i = 0; i < 4; ++i) seen[4 + i % 2][x + i / 2] = four[i];
        }
#pragma unroll
        for (int i = 0; i < 16; ++i) sums[i / 4][i % 4] = START;
    }
    // Places of one side, to the left or to the right.
    __device__ __forceinline__ void add(int block, int side, const AOperand& a) {
#pragma unroll
        for (int y = 0; y < 2; ++y) {
            unsigned b = seen[block / 3 + y][block % 3];
            if (block + 1 < BLOCKS2)
                product(sums[2 * y + side], a, b, seen[(block + 1) / 3 + y][(block + 1) % 3]);
            else
                product(sums[2 * y + side], a, b);
        }
    }
    __device__ __forceinline__ void end(unsigned unit, float4 scaling, unsigned short* features) const {
        unsigned lane = threadIdx.x % 32;
        float values[4];  // a map's two windows, and those of the next map
#pragma unroll
        for (int i = 0; i < 4; ++i)
            values[i] = pooled(sums[0][i], sums[1][i], sums[2][i], sums[3][i],
                               i < 2 ? make_float2(scaling.x, scaling.y) : make_float2(scaling.z, scaling.w));
        unsigned packed = quantize<true>(values[0], values[2], values[1], values[3]);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            unsigned at = unit * 8 + lane % 4 * 2 + i;
            if (at < IMAGES * POOLED2)
                features[at / POOLED2 * (8 * STRIDE3) + at % POOLED2 * (MAPS2 / 2) + lane / 4] =
                    static_cast<unsigned short>(packed >> 16 * i);
        }
    }
};

// UNITS x 8 windows of conv2's pool, with products enough for the tensor cores to be busy.
__device__ __forceinline__ void conv2(unsigned unit, const uint4* constants, const uint4* maps, unsigned short* features) {
    unsigned lane = threadIdx.x % 32;
    Windows windows[UNITS];
#pragma unroll
    for (int i = 0; i < UNITS; ++i) windows[i].begin(unit + i, maps);
#pragma unroll
    for (int block = 0; block < BLOCKS2; block += 2)
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            const uint4* from = constants + CONV2 + (side * BLOCKS2 + block) * BLOCK;
            AOperand a = block + 1 < BLOCKS2 ? a_operand(from[lane]) : a_operand(reinterpret_cast<const uint2*>(from)[lane]);
#pragma unroll
            for (int i = 0; i < UNITS; ++i) windows[i].add(block, side, a);
        }
    float4 scaling = reinterpret_cast<const float4*>(constants + SCALINGS_AT)[SCALING2 / 2 + lane / 4];
#pragma unroll
    for (int i = 0; i < UNITS; ++i) windows[i].end(unit + i, scaling, features);
}

// 16 outputs of a fully connected layer, for 8 images, of blocks FROM to TO; two sums take turns, since a product waits for
// its sum.
template <int FROM, int TO, int STRIDE>
__device__ __forceinline__ void connect(Sum (&sums)[4], const uint4* weights, const uint4* inputs) {
    int lane = threadIdx.x % 32;
    const unsigned* words = reinterpret_cast<const unsigned*>(inputs) + lane / 4 * (4 * STRIDE) + lane % 4;
    Sum turns[2][4] = {};
#pragma unroll
    for (int block = FROM; block < TO; block += 2)
        if (block + 1 < TO)
            product(turns[block / 2 % 2], a_operand(weights[block * BLOCK + lane]), words[4 * block], words[4 * block + 4]);
        else
            product(turns[block / 2 % 2], a_operand(reinterpret_cast<const uint2*>(weights + block * BLOCK)[lane]),
                    words[4 * block]);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] = turns[0][i] + turns[1][i];
}

// A sum, scaled: lane 4r + c has images 2c and 2c + 1 of output 2r, then of 2r + 1. Outputs past the last are scaled to 0.
__device__ __forceinline__ float scaled(const Sum (&sums)[4], int i, float4 scaling) {
    float sum = static_cast<float>(sums[i]);
    return i < 2 ? fmaf(sum, scaling.x, scaling.y) : fmaf(sum, scaling.z, scaling.w);
}

// A hidden layer's block of 16 outputs, stored as the next layer's inputs.
template <int NEXT_STRIDE>
__device__ __forceinline__ void store_hidden(const Sum (&sums)[4], int block, const float4* scalings, uint4* outputs) {
    int lane = threadIdx.x % 32;
    float4 scaling = scalings[block * 8 + lane / 4];
    unsigned packed = quantize<true>(scaled(sums, 0, scaling), scaled(sums, 2, scaling), scaled(sums, 1, scaling),
                                     scaled(sums, 3, scaling));
    unsigned short* to = reinterpret_cast<unsigned short*>(outputs) + lane % 4 * 2 * (8 * NEXT_STRIDE) + block * 8 + lane / 4;
    to[0] = static_cast<unsigned short>(packed);
    to[8 * NEXT_STRIDE] = static_cast<unsigned short>(packed >> 16);
}

__device__ __forceinline__ void classify(const uint4* weights, const uint4* inputs, const float4* scalings, float* logits,
                                         int count) {
    Sum sums[4];
    connect<0, BLOCKS5, STRIDE5>(sums, weights, inputs);
    int lane = threadIdx.x % 32;
    float4 scaling = scalings[lane / 4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        int label = lane / 4 * 2 + i / 2, image = lane % 4 * 2 + i % 2;
        if (label < CLASSES && image < count) logits[image * CLASSES + label] = scaled(sums, i, scaling);
    }
}
