// LeNet's layers on tensor cores: fp16 or bf16 operands, float32 sums (mma.sync m16n8k16).
//
// With PARTS = 2 an operand is the sum of two fp16 numbers, high and low, and a product is high x high + high x low +
// low x high: 22 bits, near float32's 24 (after Ootomo and Yokota, "Recovering single precision accuracy from Tensor
// Cores while surpassing the FP32 theoretical peak performance", IJHPCA 36(4), 2022, there with a scaled low part; here
// the weights of a layer are scaled by a power of two instead, so that few low parts are subnormal).
//
// A block takes IMAGES images through the network in shared memory. Each layer is a matrix product:
//
//   conv1: rows are windows of the pool, columns the 6 maps at the window's 4 places, and the depth is the 6x6 pixels x
//          3 channels that the window sees. The weights are the b operand and stay in registers (21 fragments).
//
//              0 1 2 3 4 5
//            0 a a a a a .     A pool window's 6x6 pixels. Its upper left place uses the pixels `a` (5x5), the other
//            1 a a a a a .     places are shifted by one: their weights are the same, moved, among zeros. Two
//            2 a a a a a .     neighbours of a row are one 32-bit word of the a operand: 18 rows x 3 words = 54, in
//            3 a a a a a .     14 quads of words, one a lane of four. A quad's words lie, from a first one,
//            4 a a a a a .        quads 0-8       in 2 rows x 2 words     (columns 0-3, three row pairs x 3 channels)
//            5 . . . . . .        quads 9-11, 13  in 2 rows x 2 channels  (columns 4-5; the 13th has one channel)
//                                 quad 12         in 4 rows               (columns 4-5 of channel 2)
//          so that three pointers a lane and constant offsets reach all. Rows are 16 words and planes 8 more than a
//          multiple of 32: but for quad 12, the words of 8 windows x 4 lanes lie in different banks.
//
//   conv2: rows are the 16 maps, columns 8 windows, the depth 25 taps x 8 channels (6 and two of zeros): the four places
//          of a window are four sums. A place at (ry, rx) of the 6x6 places that a window sees, 8 windows x 8 channels,
//          is one register a lane (`ldmatrix`): 36 registers serve all 4 x 25 taps.
//
//   fc1-3: rows are outputs, columns images (8), weights come as fragments: one 16-byte load a lane and product.
//          Where there are 16 warps two share a block of fc1's outputs, half of the depth each.
//
// conv1 stores its maps in the order that conv2 reads: 8 channels are a chunk of 16 bytes; the chunk of (y, x) is
// (y % 2 * 7 + y / 2) * 21 + x % 2 * 7 + x / 2, so a window's next neighbour is the next chunk, the window below 21 = 5
// (mod 8) chunks on, and the next image 297 = 25 (mod 8): 8 windows in a row touch all 32 banks, as `ldmatrix` wants.
//
// Macros: IMAGES, BYTES (input is uint8), SHARED_BYTES (of a block), WARPS, BFLOAT (bf16, not fp16), PARTS (1 or 2),
// STAGED (see tensor_cores.cu).

constexpr int THREADS = 32 * WARPS;
// Images that are waited for before conv1 begins; with split operands all, for there are no registers to hold more.
constexpr int FIRST_IMAGES = PARTS == 1 && IMAGES > 4 ? 4 : IMAGES;

// Parameters, in chunks of 16 bytes; `_pack_parts` of `lenet.kernels` writes them.
constexpr int STEPS1 = 7, COLUMNS1 = 3, STEPS2 = 13;         // conv1: depth 112, 24 columns; conv2: depth 208
constexpr int ROWS3 = 8, STEPS3 = 25, ROWS4 = 6, STEPS4 = 8, STEPS5 = 6;  // blocks of 16 outputs, and of 16 inputs
constexpr int FRAGMENT = 32;                                 // chunks of 16x16 weights: one a lane
constexpr int WEIGHTS1 = PARTS * STEPS1 * COLUMNS1 * FRAGMENT / 2, WEIGHTS2 = PARTS * STEPS2 * FRAGMENT;
constexpr int SCALES = 5;
constexpr int CONSTANTS = WEIGHTS1 + WEIGHTS2 + ceil_div(BIASES + SCALES, 4);
constexpr int FC1 = CONSTANTS, WEIGHTS3 = PARTS * ROWS3 * STEPS3 * FRAGMENT;
constexpr int FC2 = FC1 + WEIGHTS3, WEIGHTS4 = PARTS * ROWS4 * STEPS4 * FRAGMENT;
constexpr int FC3 = FC2 + WEIGHTS4, WEIGHTS5 = PARTS * STEPS5 * FRAGMENT;

// Shared memory, in chunks of 16 bytes (8 elements). Rows of the fully connected layers' inputs are padded so that the
// 8 images' words lie in different banks.
constexpr int ROW = SIZE, PLANE = SIZE * ROW + 16;           // of pixels, in elements
constexpr int MAP_ROW = 21, MAP_CHUNKS = 297;
constexpr int STRIDE3 = FEATURES + 8, STRIDE4 = 128 + 8, STRIDE5 = 96 + 8;
constexpr int FEATURES_AT = CONSTANTS, HIDDEN1_AT = FEATURES_AT + PARTS * STRIDE3;
constexpr int HIDDEN2_AT = HIDDEN1_AT + PARTS * STRIDE4, MAPS_AT = HIDDEN2_AT + PARTS * STRIDE5;
constexpr int PIXELS_AT = MAPS_AT + PARTS * IMAGES * MAP_CHUNKS;
constexpr int PIXEL_CHUNKS = PARTS * IMAGES * CHANNELS * PLANE / 8;
// fc1's weights lie behind the pixels, fc2's and fc3's where those were; all if there is room (RESIDENT). Where copies are
// BULK and there is room for it, fc2's and fc3's lie behind fc1's (APART), and all come as one copy while the images do.
constexpr int LATE = WEIGHTS4 + WEIGHTS5, MBARRIERS = STAGED ? 6 : BULK ? 1 : 0;  // a chunk: two mbarriers
constexpr bool APART = BULK && PIXELS_AT + PIXEL_CHUNKS + WEIGHTS3 + LATE + MBARRIERS <= SHARED_BYTES / 16;
constexpr int REGION = APART || PIXEL_CHUNKS > LATE ? PIXEL_CHUNKS : LATE;
constexpr int FC1_AT = PIXELS_AT + REGION, FC2_AT = APART ? FC1_AT + WEIGHTS3 : PIXELS_AT;
constexpr int MBARRIERS_AT = FC1_AT + WEIGHTS3 + (APART ? LATE : 0);
constexpr bool RESIDENT = MBARRIERS_AT + MBARRIERS <= SHARED_BYTES / 16;
constexpr int PIECES = PIXELS * (BYTES ? 1 : 4) / 16;
// STAGED images, in groups.
constexpr int GROUP = 2, STAGES = IMAGES / GROUP, STAGE = GROUP * PIECES;
constexpr int SUMS3_AT = STAGED ? MBARRIERS_AT + MBARRIERS : MAPS_AT;  // of fc1's second warps
static_assert(!STAGED || (BULK && RESIDENT && !APART && STAGES * STAGE < WEIGHTS3 &&
                          SUMS3_AT + 32 * ROWS3 <= SHARED_BYTES / 16),
              "shared memory is too small to stage images");
// A warp may still read fc3's weights when the others round the next turn's first group: it may not lie there.
static_assert(!STAGED || GROUP * CHANNELS * PLANE / 8 <= WEIGHTS4, "the first group's pixels lie on fc3's weights");
static_assert(PIXELS_AT + PIXEL_CHUNKS <= SHARED_BYTES / 16, "shared memory is too small for so many images");
static_assert(WARPS >= ROWS3, "fc1 wants 8 warps");
constexpr bool SHARED3 = WARPS >= 2 * ROWS3;  // two warps share a block of fc1's outputs
constexpr int HALF3 = SHARED3 ? ceil_div(STEPS3, 2) : STEPS3;
static_assert(IMAGES * MAP_CHUNKS >= 32 * ROWS3, "fc1's sums do not fit where the maps were");

using Fragment = unsigned[4];

__device__ __forceinline__ void unpack(Fragment& to, uint4 v) { to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w; }

__device__ __forceinline__ unsigned pack(float low, float high) {
    if constexpr (BFLOAT) return pack_bfloat(low, high);
    return pack_half(low, high);
}

// What rounding to fp16 leaves of two numbers.
__device__ __forceinline__ float2 remainder(float low, float high, unsigned packed) {
    return make_float2(low - half_to_float(static_cast<unsigned short>(packed)),
                       high - half_to_float(static_cast<unsigned short>(packed >> 16)));
}

// Stores a value as one element, or as its two parts, `part` elements apart.
__device__ __forceinline__ void store(unsigned short* to, int part, float value) {
    unsigned packed = pack(value, 0.0f);
    to[0] = static_cast<unsigned short>(packed);
    if constexpr (PARTS == 2) to[part] = static_cast<unsigned short>(pack(remainder(value, 0.0f, packed).x, 0.0f));
}

// Stores four values at 8 aligned bytes, or eight at 16, likewise.
__device__ __forceinline__ void store4(unsigned short* to, int part, float4 v) {
    uint2 packed = make_uint2(pack(v.x, v.y), pack(v.z, v.w));
    *reinterpret_cast<uint2*>(to) = packed;
    if constexpr (PARTS == 2) {
        float2 low = remainder(v.x, v.y, packed.x), high = remainder(v.z, v.w, packed.y);
        *reinterpret_cast<uint2*>(to + part) = make_uint2(pack(low.x, low.y), pack(high.x, high.y));
    }
}
__device__ __forceinline__ void store8(unsigned short* to, int part, float4 v, float4 w) {
    if constexpr (PARTS == 2) {
        store4(to, part, v);
        store4(to + 4, part, w);
    } else {
        *reinterpret_cast<uint4*>(to) = make_uint4(pack(v.x, v.y), pack(v.z, v.w), pack(w.x, w.y), pack(w.z, w.w));
    }
}

// sums += a x b, of all parts but low x low; the small products first.
__device__ __forceinline__ void product(float (&sums)[4], const Fragment (&a)[PARTS], const unsigned (&b)[PARTS][2]) {
    if constexpr (PARTS == 2) {
        multiply_add<BFLOAT>(sums, a[1], b[0][0], b[0][1]);
        multiply_add<BFLOAT>(sums, a[0], b[1][0], b[1][1]);
    }
    multiply_add<BFLOAT>(sums, a[0], b[0][0], b[0][1]);
}

// A sum, freed of its weights' scale, with its bias.
__device__ __forceinline__ float finish(float sum, float scale, float bias) {
    return PARTS == 2 ? sum * scale + bias : sum + bias;
}

constexpr int PIXEL_PART = IMAGES * CHANNELS * PLANE;

struct StorePixels {
    unsigned short* pixels;
    __device__ __forceinline__ void operator()(int piece, uint4 v) const {
        int row = BYTES ? piece / 2 : piece / 8, column = BYTES ? piece % 2 * 16 : piece % 8 * 4;
        unsigned short* to = pixels + row / SIZE * PLANE + row % SIZE * ROW + column;
        if constexpr (BYTES) {  // every other four lanes begin with the second half, to touch all banks
            int second = piece / 4 % 2;
            store8(to + 8 * second, PIXEL_PART, widen(second ? v.z : v.x), widen(second ? v.w : v.y));
            store8(to + 8 - 8 * second, PIXEL_PART, widen(second ? v.x : v.z), widen(second ? v.y : v.w));
        } else {
            store4(to, PIXEL_PART,
                   make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)));
        }
    }
};

// The quads of conv1's depth: which of a lane's pointers reaches one, and how far on, in words.
__device__ constexpr int pattern(int quad) { return quad < 9 ? 0 : quad == 12 ? 2 : 1; }
__device__ constexpr int offset(int quad) {
    int channel = quad < 9 ? quad / 3 : quad < 12 ? 0 : quad == 12 ? 2 : 1;
    int row = quad < 12 ? quad % 3 * 2 : quad == 12 ? 0 : 4;
    return (channel * PLANE + row * ROW + (quad < 9 ? 0 : 4)) / 2;
}

// Where a window of conv1's pool begins in the pixels, in words, and its chunk in the maps.
struct Window {
    unsigned word, chunk;

    __device__ __forceinline__ explicit Window(unsigned number) {
        unsigned image = number / POOLED1, y = number % POOLED1 / SIDE1, x = number % SIDE1;
        word = image * (CHANNELS * PLANE / 2) + y * ROW + x;
        chunk = image * MAP_CHUNKS + (y % 2 * 7 + y / 2) * MAP_ROW + x % 2 * 7 + x / 2;
    }
};

struct Conv1 {
    unsigned weights[STEPS1][COLUMNS1][PARTS][2];
    float own_bias, shared_bias, scale;  // of the map of which a lane has all places, and of that which it shares

    static __device__ __forceinline__ int own() { return threadIdx.x % 4 / 2 * 3 + threadIdx.x % 2; }
    static __device__ __forceinline__ int shared() { return threadIdx.x % 4 / 2 * 3 + 2; }

    __device__ __forceinline__ void load(const uint4* fragments, const float* bias, float its_scale) {
        own_bias = bias[own()], shared_bias = bias[shared()], scale = its_scale;
        const uint2* from = reinterpret_cast<const uint2*>(fragments) + threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < STEPS1 * COLUMNS1 * PARTS; ++i) {
            uint2 v = from[32 * i];
            unsigned(&to)[2] = weights[i / PARTS / COLUMNS1][i / PARTS % COLUMNS1][i % PARTS];
            to[0] = v.x, to[1] = v.y;
        }
    }

    // 16 windows of the pool: lanes 4r + c have the sums of windows r and r + 8.
    __device__ __forceinline__ void tile(unsigned tile, const unsigned* pixels, unsigned short* maps) const {
        constexpr unsigned WINDOWS = IMAGES * POOLED1;
        unsigned group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
        unsigned number = tile * 16 + group, last = WINDOWS - 1;
        bool whole = WINDOWS % 16 == 0;
        Window windows[2] = {Window(whole || number < last ? number : last),
                             Window(whole || number + 8 < last ? number + 8 : last)};
        const unsigned* words[2][3];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const unsigned* first = pixels + windows[half].word;
            words[half][0] = first + (member / 2 * (ROW / 2) + member % 2);
            words[half][1] = first + (member % 2 * (ROW / 2) + member / 2 * (PLANE / 2));
            words[half][2] = first + member * (ROW / 2);
        }
        float sums[COLUMNS1][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS1; ++step) {
            Fragment a[PARTS];
#pragma unroll
            for (int part = 0; part < PARTS; ++part)
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    a[part][i] = words[i % 2][pattern(2 * step + i / 2)][offset(2 * step + i / 2) + part * (PIXEL_PART / 2)];
#pragma unroll
            for (int column = 0; column < COLUMNS1; ++column) product(sums[column], a, weights[step][column]);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            bool present = whole || number + 8 * half < WINDOWS;
            finish_window(half, sums, present, maps + 8 * windows[half].chunk);
        }
    }

    // Four columns of a lane are the four places of one map, two are half of the places of a map that it shares with its
    // neighbour.
    __device__ __forceinline__ void finish_window(int half, const float (&sums)[COLUMNS1][4], bool present,
                                                  unsigned short* to) const {
        constexpr int PART = IMAGES * MAP_CHUNKS * 8;
        int i = 2 * half;
        float mine = max4(sums[0][i], sums[0][i + 1], sums[1][i], sums[1][i + 1]);
        float ours = fmaxf(sums[2][i], sums[2][i + 1]);
        ours = fmaxf(ours, from_lane_xor(ours, 1));
        if (present) store(to + own(), PART, fmaxf(finish(mine, scale, own_bias), 0.0f));
        if (present && threadIdx.x % 2 == half) store(to + shared(), PART, fmaxf(finish(ours, scale, shared_bias), 0.0f));
    }
};

// 8 windows of conv2's pool.
__device__ __forceinline__ void conv2(unsigned unit, const uint4* weights, const float* bias, float scale, const uint4* maps,
                                      unsigned short* features) {
    unsigned lane = threadIdx.x % 32;
    unsigned window = min(unit * 8 + lane % 8, IMAGES * POOLED2 - 1u);
    const uint4* from = maps + window / POOLED2 * MAP_CHUNKS + window % POOLED2 / SIDE2 * MAP_ROW + window % SIDE2 +
                        lane / 16 * 7 * MAP_ROW + lane / 8 % 2 * 7;
    unsigned seen[PARTS][6][6];
#pragma unroll
    for (int part = 0; part < PARTS; ++part)
#pragma unroll
        for (int y = 0; y < 6; y += 2)
#pragma unroll
            for (int x = 0; x < 6; x += 2) {
                Fragment four;
                load_matrices(four, from + part * IMAGES * MAP_CHUNKS + y / 2 * MAP_ROW + x / 2);
                seen[part][y][x] = four[0], seen[part][y][x + 1] = four[1];
                seen[part][y + 1][x] = four[2], seen[part][y + 1][x + 1] = four[3];
            }

    float sums[4][4] = {};
#pragma unroll
    for (int step = 0; step < STEPS2; ++step) {
        Fragment a[PARTS];
#pragma unroll
        for (int part = 0; part < PARTS; ++part) unpack(a[part], weights[(step * PARTS + part) * FRAGMENT + lane]);
        int tap = 2 * step, next = min(2 * step + 1, KERNEL * KERNEL - 1);  // the 26th has weights of zero
#pragma unroll
        for (int place = 0; place < 4; ++place) {
            unsigned b[PARTS][2];
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                b[part][0] = seen[part][tap / KERNEL + place / 2][tap % KERNEL + place % 2];
                b[part][1] = seen[part][next / KERNEL + place / 2][next % KERNEL + place % 2];
            }
            product(sums[place], a, b);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        unsigned map = lane / 4 + i / 2 * 8, at = unit * 8 + lane % 4 * 2 + i % 2;
        float pooled = finish(max4(sums[0][i], sums[1][i], sums[2][i], sums[3][i]), scale, bias[map]);
        if (at < IMAGES * POOLED2)
            store(features + at / POOLED2 * STRIDE3 + map * POOLED2 + at % POOLED2, 8 * STRIDE3, fmaxf(pooled, 0.0f));
    }
}

// 16 outputs of a fully connected layer, for 8 images, of blocks FROM to TO of 16 inputs; two sums take turns, since a
// product waits for its sum.
template <int FROM, int TO, int STRIDE>
__device__ __forceinline__ void connect(float (&sums)[4], const uint4* weights, const uint4* inputs) {
    int lane = threadIdx.x % 32;
    const unsigned* words = reinterpret_cast<const unsigned*>(inputs) + lane / 4 * (STRIDE / 2) + lane % 4;
    float turns[2][4] = {};
#pragma unroll
    for (int step = FROM; step < TO; ++step) {
        Fragment a[PARTS];
        unsigned b[PARTS][2];
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            unpack(a[part], weights[(step * PARTS + part) * FRAGMENT + lane]);
            b[part][0] = words[part * 8 * (STRIDE / 2) + 8 * step];
            b[part][1] = words[part * 8 * (STRIDE / 2) + 8 * step + 4];
        }
        product(turns[step % 2], a, b);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] = turns[0][i] + turns[1][i];
}

// A hidden layer's block of 16 outputs, stored as the next layer's inputs; outputs past the last are zero.
template <int OUTPUTS, int NEXT_STRIDE>
__device__ __forceinline__ void store_hidden(const float (&sums)[4], int block, const float* bias, float scale,
                                             uint4* outputs) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        int output = block * 16 + lane / 4 + i / 2 * 8, image = lane % 4 * 2 + i % 2;
        float value = output < OUTPUTS ? fmaxf(finish(sums[i], scale, bias[output]), 0.0f) : 0.0f;
        store(reinterpret_cast<unsigned short*>(outputs) + image * NEXT_STRIDE + output, 8 * NEXT_STRIDE, value);
    }
}

__device__ __forceinline__ void classify(const uint4* weights, const uint4* inputs, const float* bias, float scale,
                                         float* logits, int count) {
    float sums[4];
    connect<0, STEPS5, STRIDE5>(sums, weights, inputs);
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        int label = lane / 4 + i / 2 * 8, image = lane % 4 * 2 + i % 2;
        if (label < CLASSES && image < count) logits[image * CLASSES + label] = finish(sums[i], scale, bias[label]);
    }
}
