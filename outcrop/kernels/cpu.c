/* The sparse layer's step on a CPU, and counts of firings. `reference.py` is the specification, `cpu.py` the caller.
 *
 * Selections: a coarse product first, then exact values for the few latents that can matter.
 *
 *   score[t m]  ≈ x_t · w_m + b_m in bfloat16, from int8 factors (here) or bfloat16 ones (torch's product)
 *   |score − exact| ≤ margin[t m], as the rounding errors of both factors and of the score allow
 *   candidates  all latents whose score + margin reaches the selection; their exact value is recomputed in float32
 *
 * All arrays are contiguous. Every function splits its work so that no result depends on the number of threads.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512BW__)
#include <immintrin.h>
#endif

#define LANES 32     /* latents of one panel of the packed encoder: two vectors of 16 sums */
#define TILE 12      /* tokens that share a pass over a panel: 24 vectors of sums stay in registers */
#define BLOCK 96     /* tokens whose scores are made before they are searched; whole tiles */
#define PREFETCHED 8 /* cache lines */

typedef uint16_t bfloat16;

static inline float widen(bfloat16 bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

/* Integers in the order of the floats whose bits they are. */
static inline int16_t order16(bfloat16 bits) { return (int16_t)(bits ^ (((int16_t)bits >> 15) & 0x7fff)); }

static inline int32_t order32(float value) {
    int32_t bits;
    memcpy(&bits, &value, 4);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

/* The order of the largest bfloat16 that is not above the value. */
static inline int16_t order16_below(float value) { return (int16_t)(order32(value) >> 16); }

/* Rows are gathered from all over a matrix: asks for the first lines of one in time, the hardware sees to the rest. */
static inline void prefetch(const float *row) {
    for (int line = 0; line < PREFETCHED; line++) __builtin_prefetch(row + 16 * line);
}

static inline float dot(const float *a, const float *b, int64_t d) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < d; j++) sum += a[j] * b[j];
    return sum;
}

/* Four rows' products with x; together they hide each other's way from memory. */
static inline void four_dots(const float *x, const float *const rows[4], int64_t d, float out[4]) {
    const float *a = rows[0], *b = rows[1], *c = rows[2], *e = rows[3];
    float sa = 0, sb = 0, sc = 0, se = 0;
#pragma omp simd reduction(+ : sa, sb, sc, se)
    for (int64_t j = 0; j < d; j++) sa += x[j] * a[j], sb += x[j] * b[j], sc += x[j] * c[j], se += x[j] * e[j];
    out[0] = sa, out[1] = sb, out[2] = sc, out[3] = se;
}

/* ── int8 factors ────────────────────────────────────────────────────────────────────────────── */

/* 1 where `product` exists: on other CPUs torch's own product makes the scores. */
int has_product(void) {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && !defined(__AMX_INT8__)
    return 1;
#else
    return 0;
#endif
}

/* Rounds row · balance to steps of max|row · balance| / 127. Gives the step, the norm of what was rounded away,
 * the norm of the balanced row and the sum of the integers. */
static void quantise(const float *row, const float *balance, int64_t d, int8_t *out, float *step, float *norm,
                     float *error, int32_t *sum) {
    float top = 0, squares = 0, errors = 0;
    int32_t total = 0;
#pragma omp simd reduction(max : top) reduction(+ : squares)
    for (int64_t j = 0; j < d; j++) {
        float v = row[j] * balance[j];
        top = fabsf(v) > top ? fabsf(v) : top; /* fmaxf would not become a vector */
        squares += v * v;
    }
    float scale = top > 0 ? top / 127 : 1, inverse = 1 / scale;
#pragma omp simd reduction(+ : errors, total)
    for (int64_t j = 0; j < d; j++) {
        float v = row[j] * balance[j] * inverse;
        int32_t q = (int32_t)(v + (v < 0 ? -0.5f : 0.5f));
        errors += (v - q) * (v - q);
        total += q;
        out[j] = (int8_t)q;
    }
    *step = scale, *norm = sqrtf(squares), *error = sqrtf(errors) * scale, *sum = total;
}

/* Four integers at a time, to every `stride`-th place. */
static void interleave(const int8_t *row, int64_t quads, int64_t stride, uint32_t flip, uint32_t *out) {
    for (int64_t q = 0; q < quads; q++) {
        uint32_t four;
        memcpy(&four, row + 4 * q, 4);
        out[q * stride] = four ^ flip;
    }
}

/* x [n d] → integers in tiles [n/12 quads 12 4]; the last tile is zero beyond n. */
void quantise_tokens(const float *x, const float *balance, int64_t n, int64_t d, uint32_t *out, float *step,
                     float *norm, float *error, int32_t *sum, int64_t threads) {
    int64_t quads = (d + 3) / 4, tiles = (n + TILE - 1) / TILE;
#pragma omp parallel num_threads(threads)
    {
        int8_t *row = calloc(quads, 4);
#pragma omp for schedule(dynamic, 4)
        for (int64_t tile = 0; tile < tiles; tile++)
            for (int64_t t = tile * TILE; t < (tile + 1) * TILE; t++) {
                if (t < n) quantise(x + t * d, balance, d, row, step + t, norm + t, error + t, sum + t);
                else memset(row, 0, d);
                interleave(row, quads, TILE, 0, out + tile * quads * TILE + t % TILE);
            }
        free(row);
    }
}

/* w [M d] → integers + 128 in panels [M/32 quads 32 4]: the instruction multiplies unsigned by signed bytes.
 * `step`, `norm` and `error` are [M]. */
void quantise_latents(const float *w, const float *balance, int64_t m, int64_t d, uint32_t *out, float *step,
                      float *norm, float *error, int64_t threads) {
    int64_t quads = (d + 3) / 4, panels = (m + LANES - 1) / LANES;
#pragma omp parallel num_threads(threads)
    {
        int8_t *row = calloc(quads, 4);
        int32_t sum;
#pragma omp for schedule(dynamic, 4)
        for (int64_t panel = 0; panel < panels; panel++) {
            uint32_t *packed = out + panel * quads * LANES;
            for (int64_t lane = 0; lane < LANES && panel * LANES + lane < m; lane++) {
                int64_t i = panel * LANES + lane;
                quantise(w + i * d, balance, d, row, step + i, norm + i, error + i, &sum);
                interleave(row, quads, LANES, 0x80808080, packed + lane); /* + 128 in each byte */
            }
        }
        free(row);
    }
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
static inline __m256i rounded(__m512i sums, float step, const float *steps, const float *bias) {
    __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(_mm512_set1_ps(step), _mm512_loadu_ps(steps)),
                                   _mm512_loadu_ps(bias));
    __m512i bits = _mm512_add_epi32(_mm512_castps_si512(value), _mm512_set1_epi32(0x8000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
}

/* As assembly, because GCC 12 otherwise moves the sums between registers and memory at every step. */
static inline void multiply_add(__m512i *sums, __m512i unsigned_bytes, __m512i signed_bytes) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*sums) : "v"(unsigned_bytes), "v"(signed_bytes));
}

static void tile(const uint32_t *x, const uint32_t *w, int64_t quads, const int32_t *sum, const float *step,
                 const float *steps, const float *bias, int64_t stride, bfloat16 *scores) {
    __m512i left[TILE], right[TILE];
#pragma GCC unroll 12
    for (int t = 0; t < TILE; t++) left[t] = right[t] = _mm512_set1_epi32(-128 * sum[t]);
    for (int64_t q = 0; q < quads; q++, x += TILE, w += LANES) {
        __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 16);
#pragma GCC unroll 12
        for (int t = 0; t < TILE; t++) {
            __m512i token = _mm512_set1_epi32((int32_t)x[t]);
            multiply_add(&left[t], w0, token);
            multiply_add(&right[t], w1, token);
        }
    }
#pragma GCC unroll 12
    for (int t = 0; t < TILE; t++, scores += stride) {
        _mm256_storeu_si256((__m256i *)scores, rounded(left[t], step[t], steps, bias));
        _mm256_storeu_si256((__m256i *)(scores + 16), rounded(right[t], step[t], steps + 16, bias + 16));
    }
}
#endif

/* ── selection ───────────────────────────────────────────────────────────────────────────────── */

/* What a selection is given: tokens, encoder, their coarse product, and the four factors of the margin
 *     margin[t m] = √((token_error_t · latent_norm_m)² + (token_norm_t · latent_error_m)²) + |score| / 256.
 * The product is there, or int8 factors to make it from, a block of tokens at a time. */
typedef struct {
    const float *x, *w, *bias;
    const float *token_norm, *token_error, *latent_norm, *latent_error;
    const bfloat16 *scores;
    const uint32_t *tokens, *latents;      /* as quantised, or NULL */
    const int32_t *token_sum;              /* of the integers */
    const float *token_step, *latent_step; /* what an integer stands for; latents' padded to whole panels, as is */
    const float *padded_bias;
    float latent_norm_max, latent_error_max;
    int64_t n, m, d, stride;
} Problem;

/* What is asked for, and where it goes: values and indices [n width], zero where nothing fires. */
typedef struct {
    int64_t width;
    float least;            /* what is below need not be found */
    const float *threshold; /* [M], for `above` */
    float *values;
    int64_t *indices, *counts;
} Selection;

/* One token in work, with room for as many candidates as there are latents. */
typedef struct {
    const Problem *of;
    int64_t t;
    const bfloat16 *scores;
    float margin; /* the largest of any latent, without the score's own rounding */
    int32_t *candidates;
    float *values;
    int16_t *keys;       /* the largest of each group of latents */
    const int16_t *tops; /* the same if groups are of 64, else NULL */
} Row;

static inline float margin(const Problem *p, int64_t t, float latent_norm, float latent_error) {
    float from_token = p->token_error[t] * latent_norm, from_latent = p->token_norm[t] * latent_error;
    return sqrtf(from_token * from_token + from_latent * from_latent);
}

/* The most that the exact value can be. */
static inline float reach(const Row *row, int32_t m) {
    const Problem *p = row->of;
    float score = widen(row->scores[m]);
    return score + margin(p, row->t, p->latent_norm[m], p->latent_error[m]) + fabsf(score) / 256;
}

/* The key below which no score can reach the value. */
static inline int16_t reaching(const Row *row, float value) {
    float least = value - row->margin;
    return order16_below(least - fabsf(least) / 128);
}

/* Scores [BLOCK stride] of the tokens from `start` on, from the int8 factors, which hold whole tiles and panels. */
void product(const Problem *p, int64_t start, bfloat16 *scores) {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
    int64_t quads = (p->d + 3) / 4, stop = start + BLOCK < p->n ? start + BLOCK : p->n;
    for (int64_t m = 0; m < p->stride; m += LANES)
        for (int64_t t = start; t < stop; t += TILE)
            tile(p->tokens + t * quads, p->latents + m * quads, quads, p->token_sum + t, p->token_step + t,
                 p->latent_step + m, p->padded_bias + m, p->stride, scores + (t - start) * p->stride + m);
#endif
}

/* Which of up to 64 scores have at least this key, as bits. */
static inline uint64_t reached(const bfloat16 *scores, int64_t count, int16_t least) {
    uint64_t hits = 0;
#if defined(__AVX512BW__)
    for (int64_t half = 0; half < count; half += 32) {
        __mmask32 present = count - half >= 32 ? 0xffffffff : (1u << (count - half)) - 1;
        __m512i bits = _mm512_maskz_loadu_epi16(present, scores + half);
        __m512i flip = _mm512_and_si512(_mm512_srai_epi16(bits, 15), _mm512_set1_epi16(0x7fff));
        __m512i keys = _mm512_xor_si512(bits, flip);
        hits |= (uint64_t)_mm512_mask_cmpge_epi16_mask(present, keys, _mm512_set1_epi16(least)) << half;
    }
#else
    for (int64_t i = 0; i < count; i++) hits |= (uint64_t)(order16(scores[i]) >= least) << i;
#endif
    return hits;
}

/* Appends the latents in [from, to) whose key is in [least, below) and whose reach is at least `value`. */
static int64_t collect(const Row *row, int64_t from, int64_t to, int16_t least, int32_t below, float value,
                       int64_t count) {
    for (int64_t start = from; start < to; start += 64) {
        if (row->tops && row->tops[start / 64] < least) continue;
        uint64_t hits = reached(row->scores + start, to - start < 64 ? to - start : 64, least);
        for (; hits; hits &= hits - 1) {
            int32_t m = (int32_t)start + __builtin_ctzll(hits);
            if (order16(row->scores[m]) < below && reach(row, m) >= value) row->candidates[count++] = m;
        }
    }
    return count;
}

/* Exact pre-activations of the candidates in [from, to), four rows of the encoder at a time. */
static void recompute(Row *row, int64_t from, int64_t to) {
    const Problem *p = row->of;
    const float *x = p->x + row->t * p->d;
    int64_t c = from, d = p->d;
    for (; c + 4 <= to; c += 4) {
        const int32_t *m = row->candidates + c;
        const float *rows[4] = {p->w + m[0] * d, p->w + m[1] * d, p->w + m[2] * d, p->w + m[3] * d};
        for (int64_t ahead = 4; ahead < 8 && c + ahead < to; ahead++) prefetch(p->w + m[ahead] * d);
        four_dots(x, rows, d, row->values + c);
        for (int i = 0; i < 4; i++) row->values[c + i] += p->bias[m[i]];
    }
    for (; c < to; c++) row->values[c] = dot(x, p->w + row->candidates[c] * d, d) + p->bias[row->candidates[c]];
}

/* A key that the k largest reach and no others, or the k-th where others equal it: by bisection. */
static int16_t kth_key(const int16_t *keys, int64_t count, int64_t k) {
    int32_t low = INT16_MIN, high = INT16_MAX;
    while (low < high) {
        int16_t middle = (int16_t)(low + (high - low + 1) / 2);
        int32_t above = 0;
#pragma omp simd reduction(+ : above)
        for (int64_t i = 0; i < count; i++) above += keys[i] >= middle;
        if (above == k) high = middle;
        if (above >= k) low = middle;
        else high = middle - 1;
    }
    return (int16_t)low;
}

/* The same of values. */
static float kth_value(const float *values, int64_t count, int64_t k) {
    int32_t bottom = INT32_MAX, top = INT32_MIN;
#pragma omp simd reduction(min : bottom) reduction(max : top)
    for (int64_t i = 0; i < count; i++) {
        int32_t key = order32(values[i]);
        bottom = key < bottom ? key : bottom, top = key > top ? key : top;
    }
    int64_t low = bottom, high = top;
    while (low < high) {
        int64_t middle = low + (high - low + 1) / 2;
        int32_t above = 0;
#pragma omp simd reduction(+ : above)
        for (int64_t i = 0; i < count; i++) above += order32(values[i]) >= (int32_t)middle;
        if (above == k) high = middle;
        if (above >= k) low = middle;
        else high = middle - 1;
    }
    int32_t key = (int32_t)low, bits = key ^ ((key >> 31) & 0x7fffffff);
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static int16_t largest_key(const bfloat16 *scores, int64_t from, int64_t to) {
    int16_t top = INT16_MIN;
#pragma omp simd reduction(max : top)
    for (int64_t i = from; i < to; i++) {
        int16_t key = order16(scores[i]);
        top = key > top ? key : top;
    }
    return top;
}

/* A key that at least k scores reach, and not many more: the k-th largest of the maxima of groups of latents. */
static int16_t first_threshold(Row *row, int64_t k) {
    int64_t m = row->of->m, width = 64;
    while (width > 1 && m / width < 4 * k) width /= 2;
    int64_t groups = (m + width - 1) / width;
    for (int64_t g = 0; g < groups; g++)
        row->keys[g] = largest_key(row->scores, g * width, (g + 1) * width < m ? (g + 1) * width : m);
    row->tops = width == 64 ? row->keys : NULL;
    return kth_key(row->keys, groups, k);
}

/* Candidate c becomes the token's code number j. */
static inline void put(const Row *row, const Selection *s, int64_t j, int64_t c) {
    s->values[row->t * s->width + j] = row->values[c], s->indices[row->t * s->width + j] = row->candidates[c];
}

/* Codes from j on have not fired. */
static inline void clear(const Row *row, const Selection *s, int64_t j) {
    for (; j < s->width; j++) s->values[row->t * s->width + j] = 0, s->indices[row->t * s->width + j] = 0;
}

static void topk_row(Row *row, const Selection *s) {
    int64_t k = s->width, kept = 0;
    int16_t first = first_threshold(row, k), needed = reaching(row, s->least);
    if (first < needed) first = needed;
    int64_t count = collect(row, 0, row->of->m, first, INT32_MAX, s->least, 0);
    recompute(row, 0, count);
    float found = count < k ? s->least : fmaxf(kth_value(row->values, count, k), s->least);
    int64_t total = collect(row, 0, row->of->m, reaching(row, found), first, found, count);
    recompute(row, count, total);
    float cut = total < k ? s->least : fmaxf(kth_value(row->values, total, k), s->least);
    int64_t ties = k;
    for (int64_t c = 0; c < total; c++) ties -= row->values[c] > cut;
    /* Both lots of candidates rise; merged they give codes in the order of latents, however they were found. */
    for (int64_t a = 0, b = count; a < count || b < total;) {
        int64_t c = b == total || (a < count && row->candidates[a] < row->candidates[b]) ? a++ : b++;
        if (row->values[c] > cut || (row->values[c] == cut && ties-- > 0)) put(row, s, kept++, c);
    }
    clear(row, s, kept);
}

static void groupmax_row(Row *row, const Selection *s) {
    int64_t m = row->of->m, k = s->width;
    clear(row, s, 0);
    for (int64_t g = 0; g < k; g++) {
        int64_t from = g * m / k, to = (g + 1) * m / k;
        s->indices[row->t * k + g] = from;
        int16_t top = largest_key(row->scores, from, to);
        int64_t count = collect(row, from, to, top, INT32_MAX, s->least, 0);
        recompute(row, 0, count);
        float best = s->least;
        for (int64_t c = 0; c < count; c++) best = fmaxf(best, row->values[c]);
        int64_t total = collect(row, from, to, reaching(row, best), top, best, count);
        recompute(row, count, total);
        for (int64_t c = 0; c < total; c++) {
            float value = row->values[c], held = s->values[row->t * k + g];
            if (value > held || (value == held && row->candidates[c] < s->indices[row->t * k + g])) put(row, s, g, c);
        }
    }
}

static void above_row(Row *row, const Selection *s) {
    int64_t total = collect(row, 0, row->of->m, reaching(row, s->least), INT32_MAX, s->least, 0), count = 0;
    recompute(row, 0, total);
    for (int64_t c = 0; c < total; c++)
        if (row->values[c] > fmaxf(s->threshold[row->candidates[c]], 0)) {
            if (count < s->width) put(row, s, count, c);
            count++;
        }
    clear(row, s, count);
    s->counts[row->t] = count;
}

/* Every token of the problem, in blocks whose scores stay in the cache. */
static void select_rows(const Problem *p, const Selection *s, void (*select)(Row *, const Selection *),
                        int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        bfloat16 *own = p->latents ? malloc(BLOCK * p->stride * 2) : NULL;
        Row row = {p, 0, NULL, 0, malloc(p->m * 4), malloc(p->m * 4), malloc(p->m * 2), NULL};
#pragma omp for schedule(dynamic, 1)
        for (int64_t start = 0; start < p->n; start += BLOCK) {
            if (own) product(p, start, own);
            const bfloat16 *scores = own ? own : p->scores + start * p->stride;
            for (row.t = start; row.t < start + BLOCK && row.t < p->n; row.t++) {
                row.scores = scores + (row.t - start) * p->stride;
                row.margin = margin(p, row.t, p->latent_norm_max, p->latent_error_max);
                select(&row, s);
            }
        }
        free(own), free(row.candidates), free(row.values), free(row.keys);
    }
}

/* values, indices [n k]: the k largest of ReLU(x Wᵀ + b), or without the ReLU. */
void topk(const Problem *p, int64_t k, int64_t is_signed, float *values, int64_t *indices, int64_t threads) {
    Selection s = {k, is_signed ? -INFINITY : FLT_MIN, NULL, values, indices, NULL};
    select_rows(p, &s, topk_row, threads);
}

/* values, indices [n k]: the largest ReLU pre-activation of each of k contiguous groups of latents. */
void groupmax(const Problem *p, int64_t k, float *values, int64_t *indices, int64_t threads) {
    Selection s = {k, FLT_MIN, NULL, values, indices, NULL};
    select_rows(p, &s, groupmax_row, threads);
}

/* values, indices [n width]: pre-activations above max(threshold_m, 0), as far as they fit.
 * counts [n]: how many there are, which may be more. `least` is the lowest threshold. */
void above(const Problem *p, const float *threshold, float least, int64_t width, float *values, int64_t *indices,
           int64_t *counts, int64_t threads) {
    Selection s = {width, fmaxf(least, FLT_MIN), threshold, values, indices, counts};
    select_rows(p, &s, above_row, threads);
}

/* ── products with the codes ─────────────────────────────────────────────────────────────────── */

/* out [d] += Σ_j values_j · rows[order_j], skipping zeros, four rows at a time. */
static void add_rows(float *restrict out, const float *values, const int64_t *order, int64_t stride, int64_t count,
                     const float *rows, int64_t d) {
    const float *row[4];
    float v[4];
    int held = 0;
    for (int64_t j = 0; j < count; j++) {
        if (values[j] == 0) continue;
        if (j + 8 < count) prefetch(rows + order[j + 8] / stride * d);
        row[held] = rows + order[j] / stride * d, v[held++] = values[j];
        if (held < 4) continue;
        const float *a = row[0], *b = row[1], *c = row[2], *e = row[3];
#pragma omp simd
        for (int64_t i = 0; i < d; i++) out[i] += v[0] * a[i] + v[1] * b[i] + v[2] * c[i] + v[3] * e[i];
        held = 0;
    }
    for (int h = 0; h < held; h++) {
#pragma omp simd
        for (int64_t i = 0; i < d; i++) out[i] += v[h] * row[h][i];
    }
}

/* out [n d]: Σ_j values_j · weight[indices_j]. */
void weighted_rows(const float *values, const int64_t *indices, const float *weight, int64_t n, int64_t k, int64_t d,
                   float *out, int64_t threads) {
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads)
    for (int64_t t = 0; t < n; t++) {
        memset(out + t * d, 0, d * 4);
        add_rows(out + t * d, values + t * k, indices + t * k, 1, k, weight, d);
    }
}

/* out [n k]: rows_t · weight[indices_tj]. */
void row_products(const float *rows, const int64_t *indices, const float *weight, int64_t n, int64_t k, int64_t d,
                  float *out, int64_t threads) {
#pragma omp parallel for schedule(dynamic, 16) num_threads(threads)
    for (int64_t t = 0; t < n; t++) {
        const float *x = rows + t * d;
        int64_t j = 0;
        for (; j + 4 <= k; j += 4) {
            const int64_t *m = indices + t * k + j;
            const float *four[4] = {weight + m[0] * d, weight + m[1] * d, weight + m[2] * d, weight + m[3] * d};
            for (int64_t ahead = 4; ahead < 8 && j + ahead < k; ahead++) prefetch(weight + m[ahead] * d);
            four_dots(x, four, d, out + t * k + j);
        }
        for (; j < k; j++) out[t * k + j] = dot(x, weight + indices[t * k + j] * d, d);
    }
}

/* Codes by latent: those of latent i are at start_i … start_{i+1}, with their values and places t·k + j. */
typedef struct {
    int64_t *start, *places;
    float *values;
} Sorted;

/* A counting sort, which keeps the order of tokens. Zeros are left out. */
static Sorted sort_by_latent(const float *values, const int64_t *indices, int64_t count, int64_t m) {
    Sorted s = {calloc(m + 1, 8), malloc(count * 8), malloc(count * 4)};
    for (int64_t i = 0; i < count; i++)
        if (values[i] != 0) s.start[indices[i] + 1]++;
    for (int64_t i = 0; i < m; i++) s.start[i + 1] += s.start[i];
    for (int64_t i = 0; i < count; i++)
        if (values[i] != 0) {
            int64_t place = s.start[indices[i]]++;
            s.values[place] = values[i], s.places[place] = i;
        }
    memmove(s.start + 1, s.start, m * 8);
    s.start[0] = 0;
    return s;
}

static void free_sorted(Sorted *s) { free(s->start), free(s->places), free(s->values); }

/* out [M d] = Aᵀ · rows, with A the sparse [n M] matrix of the codes. */
void transposed_product(const float *values, const int64_t *indices, const float *rows, int64_t n, int64_t k, int64_t m,
                        int64_t d, float *out, int64_t threads) {
    Sorted s = sort_by_latent(values, indices, n * k, m);
#pragma omp parallel for schedule(dynamic, 32) num_threads(threads)
    for (int64_t i = 0; i < m; i++) {
        int64_t from = s.start[i], count = s.start[i + 1] - from;
        memset(out + i * d, 0, d * 4);
        add_rows(out + i * d, s.values + from, s.places + from, k, count, rows, d);
    }
    free_sorted(&s);
}

/* Both gradients of a decoding, from that of its output, grad [n d]; every row of grad is fetched once for both:
 * of_values [n k] = grad_t · weight[indices_tj] where the value is not zero, of_weight [M d] = Aᵀ · grad. */
void decode_gradients(const float *values, const int64_t *indices, const float *weight, const float *grad, int64_t n,
                      int64_t k, int64_t m, int64_t d, float *of_values, float *of_weight, int64_t threads) {
    Sorted s = sort_by_latent(values, indices, n * k, m);
    memset(of_values, 0, n * k * 4);
#pragma omp parallel for schedule(dynamic, 32) num_threads(threads)
    for (int64_t i = 0; i < m; i++) {
        memset(of_weight + i * d, 0, d * 4);
        for (int64_t from = s.start[i]; from < s.start[i + 1]; from += 4) {
            int64_t count = s.start[i + 1] - from < 4 ? s.start[i + 1] - from : 4;
            const int64_t *places = s.places + from;
            for (int64_t c = 4; c < 8 && from + c < s.start[i + 1]; c++) prefetch(grad + places[c] / k * d);
            const float *rows[4];
            float products[4];
            for (int64_t c = 0; c < 4; c++) rows[c] = grad + places[c < count ? c : 0] / k * d;
            four_dots(weight + i * d, rows, d, products);
            for (int64_t c = 0; c < count; c++) of_values[places[c]] = products[c];
            add_rows(of_weight + i * d, s.values + from, places, k, count, grad, d);
        }
    }
    free_sorted(&s);
}

static inline void unit_row(float *row, int64_t d) {
    float scale = 1 / fmaxf(sqrtf(dot(row, row, d)), FLT_MIN);
#pragma omp simd
    for (int64_t j = 0; j < d; j++) row[j] *= scale;
}

/* weight [M d]: every row brought to unit norm. */
void unit_rows(float *weight, int64_t m, int64_t d, int64_t threads) {
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads)
    for (int64_t i = 0; i < m; i++) unit_row(weight + i * d, d);
}

/* One step of Signum on matrices [M d], row by row, so that none is read twice:
 * z ← z − lr sign(grad), x ← x + share (z − x), y ← z + beta (x − z); rows of z and x of unit norm where `unit`. */
void signum(const float *grad, float *z, float *x, float *y, int64_t m, int64_t d, float lr, float share, float beta,
            int64_t unit, int64_t threads) {
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads)
    for (int64_t i = 0; i < m; i++) {
        const float *g = grad + i * d;
        float *zi = z + i * d, *xi = x + i * d, *yi = y + i * d;
#pragma omp simd
        for (int64_t j = 0; j < d; j++) {
            zi[j] -= lr * (float)((g[j] > 0) - (g[j] < 0));
            xi[j] += share * (zi[j] - xi[j]);
        }
        if (unit) unit_row(zi, d), unit_row(xi, d);
#pragma omp simd
        for (int64_t j = 0; j < d; j++) yi[j] = zi[j] + beta * (xi[j] - zi[j]);
    }
}

/* together [A B] += 1 for every token on which both fire: the tokens of latent a are at start_a … start_{a+1}, the
 * others on token t at token_start_t … token_start_{t+1}. */
void add_co_firings(const int64_t *start, const int32_t *tokens, const int64_t *token_start, const int32_t *others,
                    int64_t a, int64_t b, int32_t *together, int64_t threads) {
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads)
    for (int64_t i = 0; i < a; i++) {
        int32_t *row = together + i * b;
        for (int64_t place = start[i]; place < start[i + 1]; place++) {
            int32_t token = tokens[place];
            for (int64_t j = token_start[token]; j < token_start[token + 1]; j++) row[others[j]]++;
        }
    }
}

enum { TYPE, PLACE, WINDOW, DOCUMENT, HALF, COLUMNS }; /* of what is known of a position */

/* Counts the firings of one latent. `seen` [n_types] and the bits of `some` are zero, and are left so. Returns how many
 * token types it fires on; they and their counts stand in `types` and `counts`, ascending. */
static int64_t count_latent(const int32_t *at, const float *value, int64_t n, const int32_t *where, int64_t n_types,
                            int64_t n_bins, int64_t n_places, double *total, int64_t *bins, int64_t *places,
                            int64_t *windows, int64_t *documents, int32_t *types, int32_t *counts, int32_t *seen,
                            uint64_t *some) {
    int32_t window = -1, document = -1;
    double sum = 0;
    memset(bins, 0, n_bins * 8), memset(places, 0, n_places * 8), memset(windows, 0, 16), memset(documents, 0, 16);
    for (int64_t j = 0; j < n; j++) {
        const int32_t *of = where + (int64_t)at[j] * COLUMNS;
        int64_t bin = ((order32(value[j]) >> 23) & 255) - 127 + n_bins / 2;
        bins[bin < 0 ? 0 : bin < n_bins ? bin : n_bins - 1]++;
        places[of[PLACE]]++;
        sum += value[j];
        seen[of[TYPE]]++;
        some[of[TYPE] / 64] |= 1ULL << of[TYPE] % 64;
        if (of[WINDOW] < 0 || of[WINDOW] == window) continue;
        window = of[WINDOW];
        windows[of[HALF]]++;
        documents[of[HALF]] += of[DOCUMENT] != document;
        document = of[DOCUMENT];
    }
    *total = sum;
    int64_t found = 0;
    for (int64_t word = 0; word <= (n_types - 1) / 64; word++)
        for (; some[word]; some[word] &= some[word] - 1, found++) {
            types[found] = (int32_t)(word * 64 + __builtin_ctzll(some[word]));
            counts[found] = seen[types[found]];
            seen[types[found]] = 0;
        }
    return found;
}

/* All counts of n latents: latent i fires at_start_i … at_start_{i+1}, ascending, with `value`, on positions of which
 * `where` [positions COLUMNS] holds what is known. Its types, and how often each, stand at indptr_i … indptr_{i+1}. */
void count_firings(const int64_t *start, const int32_t *at, const float *value, const int32_t *where, int64_t n,
                   int64_t n_types, int64_t n_bins, int64_t n_places, double *total, int64_t *bins, int64_t *places,
                   int64_t *windows, int64_t *documents, int64_t *indptr, int32_t *types, int32_t *counts,
                   int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        int32_t *seen = calloc(n_types, 4);
        uint64_t *some = calloc((n_types + 63) / 64, 8);
#pragma omp for schedule(dynamic, 16)
        for (int64_t i = 0; i < n; i++) {
            int64_t from = start[i];
            indptr[i + 1] = count_latent(at + from, value + from, start[i + 1] - from, where, n_types, n_bins, n_places,
                                         total + i, bins + i * n_bins, places + i * n_places, windows + i * 2,
                                         documents + i * 2, types + from, counts + from, seen, some);
        }
        free(seen), free(some);
    }
    indptr[0] = 0;
    for (int64_t i = 0; i < n; i++) { /* behind one another, without gaps */
        memmove(types + indptr[i], types + start[i], indptr[i + 1] * 4);
        memmove(counts + indptr[i], counts + start[i], indptr[i + 1] * 4);
        indptr[i + 1] += indptr[i];
    }
}
