/* What comes before a network and after it: a picture of another size, and scores made probabilities.
 *
 * A picture is resized along its rows first, then along its columns, with weights in fixed point and bytes between the
 * two. Pillow does the same, so the bytes are the same; but its releases from 12.2 on take the columns of some tall
 * pictures first. What has fractions is computed in double by nothing but the four operations, each rounded, so that it
 * is the same on every machine. */
#include "internal.h"

enum { LARGEST = 16384, BITS = 22, HALF = 1 << (BITS - 1) };

/* A product that no compiler may fuse with a sum into one rounding. */
static double times(double a, double b) {
    volatile double product = a * b;
    return product;
}

/* The filter `x` pixels from its centre: Keys's cubic with a = -1/2, or a triangle. */
static double filter(double x, int bicubic) {
    x = x < 0 ? -x : x;
    if (!bicubic)
        return x < 1 ? 1 - x : 0;
    if (x < 1)
        return times(times(times(1.5, x) - 2.5, x), x) + 1;
    return x < 2 ? times(times(times(x - 5, x) + 8, x) - 4, -0.5) : 0;
}

/* How far the filter reaches to either side, in pixels of the source: it is stretched where the picture shrinks. */
static double reach(uint32_t size, uint32_t new_size, int bicubic) {
    return (bicubic ? 2 : 1) * (size > new_size ? (double)size / new_size : 1);
}

/* The most source pixels that one of the result is made of. */
static size_t most(uint32_t size, uint32_t new_size, int bicubic) {
    const size_t pixels = 2 * (size_t)reach(size, new_size, bicubic) + 3;
    return pixels < size ? pixels : size;
}

/* What pixel `i` of the result is made of: the first pixel of the source, how many there are, and their weights. */
static void make_window(int32_t *window, uint32_t i, uint32_t size, uint32_t new_size, int bicubic) {
    const double scale = (double)size / new_size, narrow = size > new_size ? 1 / scale : 1;
    const double centre = times(i + 0.5, scale), to_side = reach(size, new_size, bicubic);
    const double first = centre - to_side + 0.5, end = centre + to_side + 0.5;
    double sum = 0;
    window[0] = first > 0 ? (int32_t)first : 0;
    window[1] = (end < size ? (int32_t)end : (int32_t)size) - window[0];
    for (int32_t k = 0; k < window[1]; k++)
        sum += filter(times(window[0] + k - centre + 0.5, narrow), bicubic);
    for (int32_t k = 0; k < window[1]; k++) {
        const double weight = filter(times(window[0] + k - centre + 0.5, narrow), bicubic) / sum * (1 << BITS);
        window[2 + k] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
}

static uint8_t to_byte(int32_t sum) {
    return sum < 0 ? 0 : sum >> BITS > 255 ? 255 : (uint8_t)(sum >> BITS);
}

static void resize_row(const uint8_t *row, const int32_t *window, size_t stride, uint8_t *out, uint32_t new_width) {
    for (const uint8_t *end = out + 3 * (size_t)new_width; out < end; out += 3, window += stride) {
        const uint8_t *pixel = row + 3 * (size_t)window[0];
        int32_t red = HALF, green = HALF, blue = HALF;
        for (int32_t k = 0; k < window[1]; k++, pixel += 3) {
            red += pixel[0] * window[2 + k];
            green += pixel[1] * window[2 + k];
            blue += pixel[2] * window[2 + k];
        }
        out[0] = to_byte(red);
        out[1] = to_byte(green);
        out[2] = to_byte(blue);
    }
}

/* Scratch memory: the windows of all columns and of one row, a row of sums, and as many rows, their width changed, as a
 * row of the result is made of. */
size_t smidgen_resize_scratch(uint32_t width, uint32_t height, uint32_t new_width, uint32_t new_height, int bicubic) {
    const uint32_t sizes[4] = {width, height, new_width, new_height};
    for (int i = 0; i < 4; i++)
        if (sizes[i] < 1 || sizes[i] > LARGEST)
            return 0;
    const size_t across = most(width, new_width, bicubic), down = most(height, new_height, bicubic);
    return sizeof(int32_t) * (new_width * (across + 2) + down + 2 + 3 * (size_t)new_width) + down * 3 * new_width;
}

void smidgen_resize(const uint8_t *pixels, uint32_t width, uint32_t height, uint8_t *out, uint32_t new_width,
                    uint32_t new_height, int bicubic, void *scratch) {
    const size_t stride = most(width, new_width, bicubic) + 2, down = most(height, new_height, bicubic);
    const size_t row_bytes = 3 * (size_t)width, new_bytes = 3 * (size_t)new_width;
    int32_t *columns = scratch, *row = columns + new_width * stride, *sums = row + down + 2;
    uint8_t *rows = (uint8_t *)(sums + new_bytes);
    int32_t done = 0; /* so many rows of the source have been taken; row y is at y % down */
    for (uint32_t x = 0; x < new_width; x++)
        make_window(columns + x * stride, x, width, new_width, bicubic);
    for (uint32_t y = 0; y < new_height; y++, out += new_bytes) {
        make_window(row, y, height, new_height, bicubic);
        for (; done < row[0] + row[1]; done++)
            resize_row(pixels + (size_t)done * row_bytes, columns, stride, rows + (size_t)done % down * new_bytes,
                       new_width);
        for (size_t i = 0; i < new_bytes; i++)
            sums[i] = HALF;
        for (int32_t k = 0; k < row[1]; k++) {
            const uint8_t *from = rows + (size_t)(row[0] + k) % down * new_bytes;
            const int32_t weight = row[2 + k];
            for (size_t i = 0; i < new_bytes; i++)
                sums[i] += from[i] * weight;
        }
        for (size_t i = 0; i < new_bytes; i++)
            out[i] = to_byte(sums[i]);
    }
}

/* e^x for x <= 0; what no normal float can hold is 0. Otherwise x = n ln 2 + r, and e^r is its Taylor series. */
static double exponential(double x) {
    double result = 1;
    if (!(x > -87))
        return 0;
    const int32_t n = (int32_t)(times(x, 1.4426950408889634) - 0.5);
    const double r = x - times(n, 0.6931471805599453);
    const union {
        uint64_t bits;
        double value;
    } power = {(uint64_t)(1023 + n) << 52}; /* 2^n */
    for (int k = 8; k > 0; k--)
        result = 1 + times(result, r) / k;
    return result * power.value;
}

void smidgen_softmax(float *scores, uint32_t count) {
    double greatest = count ? scores[0] : 0, sum = 0;
    for (uint32_t i = 1; i < count; i++)
        greatest = scores[i] > greatest ? scores[i] : greatest;
    for (uint32_t i = 0; i < count; i++) {
        scores[i] = (float)exponential(scores[i] - greatest);
        sum += scores[i];
    }
    for (uint32_t i = 0; i < count; i++)
        scores[i] = (float)(scores[i] / sum);
}
