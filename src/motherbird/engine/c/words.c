// For static vectors: the token ids of ASCII texts, sums of the rows of a table, and products of
// vectors in 8 bits. A text is divided into segments, which are what the pre-tokenizer of GPT-2
// finds; see models/segments.py. The ids of segments that were seen before are remembered, and
// those of others computed by byte-pair encoding once its merges are known.
#include "table.h"

enum { AHEAD = 4 };  // rows of which memory is read in advance

// Two tokens that become one. Lower ranks are merged first. left is -1 in an empty slot.
typedef struct {
    int32_t left, right, rank, merged;
} merge;

typedef struct {
    table ids;            // of segments
    merge *merges;        // a hash table, or NULL
    int64_t merges_size;  // a power of 2
    int32_t bytes[128];   // the token of each character
} mb_words;

enum { WHITE, LETTER, DIGIT, OTHER };

static int kind(unsigned char c) {
    if (c == ' ' || (c >= '\t' && c <= '\r')) return WHITE;
    if ((c | 32) >= 'a' && (c | 32) <= 'z') return LETTER;
    return c >= '0' && c <= '9' ? DIGIT : OTHER;
}

// Return the end of the segment of an ASCII text that begins at `p`:
// '(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+
static int64_t segment_end(const char *text, int64_t p, int64_t length) {
    if (text[p] == '\'' && p + 1 < length) {
        if (memchr("sdmt", text[p + 1], 4)) return p + 2;
        if (p + 2 < length)
            for (const char *each = "llvere"; *each; each += 2)
                if (each[0] == text[p + 1] && each[1] == text[p + 2]) return p + 3;
    }
    int64_t end = p + (text[p] == ' ');
    int own = end < length ? kind(text[end]) : WHITE;
    if (own != WHITE) {
        while (end < length && kind(text[end]) == own) end++;
        return end;
    }
    for (end = p; end < length && kind(text[end]) == WHITE;) end++;
    return end < length && end - p > 1 ? end - 1 : end;
}

VISIBLE void mb_words_free(mb_words *words) {
    if (!words) return;
    table_free(&words->ids), free(words->merges);
    free(words);
}

// Return an object that remembers the ids of `most` segments at most; NULL without memory.
VISIBLE mb_words *mb_words_create(int64_t most) {
    mb_words *words = calloc(1, sizeof *words);
    if (words && table_init(&words->ids, most)) {
        free(words);
        return NULL;
    }
    return words;
}

static merge *find_merge(const mb_words *words, int32_t left, int32_t right) {
    uint64_t hash = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    for (int64_t i = hash >> 32 & (words->merges_size - 1);; i = (i + 1) & (words->merges_size - 1)) {
        merge *own = words->merges + i;
        if (own->left < 0 || (own->left == left && own->right == right)) return own;
    }
}

// Use byte-pair encoding: the tokens of 128 characters, and `count` merges of a left and a right token
// to a third one, in order of rank. Return 0, or -1 without memory.
VISIBLE int mb_words_merges(mb_words *words, const int32_t *bytes, const int32_t *merges, int64_t count) {
    words->merges_size = 64;
    while (words->merges_size < 2 * count) words->merges_size *= 2;
    free(words->merges);
    if (!(words->merges = malloc(words->merges_size * sizeof *words->merges))) return -1;
    for (int64_t i = 0; i < words->merges_size; i++) words->merges[i].left = -1;
    for (int64_t i = 0; i < count; i++, merges += 3)
        *find_merge(words, merges[0], merges[1]) = (merge){merges[0], merges[1], (int32_t)i, merges[2]};
    memcpy(words->bytes, bytes, sizeof words->bytes);
    return 0;
}

// Write the ids of a segment, and return how many: of all merges of neighbors, that of the lowest
// rank is done, the leftmost of several, until there is none.
static int64_t merged_ids(const mb_words *words, const char *text, int64_t length, int32_t *ids) {
    const merge *merges[LONGEST];  // of each token with the next one
    for (int64_t i = 0; i < length; i++) ids[i] = words->bytes[(unsigned char)text[i]];
    for (int64_t i = 0; i + 1 < length; i++) merges[i] = find_merge(words, ids[i], ids[i + 1]);
    for (;;) {
        int64_t best = -1;
        for (int64_t i = 0; i + 1 < length; i++)
            if (merges[i]->left >= 0 && (best < 0 || merges[i]->rank < merges[best]->rank)) best = i;
        if (best < 0) return length;
        ids[best] = merges[best]->merged;
        length--;
        for (int64_t i = best + 1; i < length; i++) ids[i] = ids[i + 1];
        for (int64_t i = best + 1; i + 1 < length; i++) merges[i] = merges[i + 1];
        if (best > 0) merges[best - 1] = find_merge(words, ids[best - 1], ids[best]);
        if (best + 1 < length) merges[best] = find_merge(words, ids[best], ids[best + 1]);
    }
}

// Remember the ids of a segment; return 0, or -1 without memory.
VISIBLE int mb_words_add(mb_words *words, const char *text, int64_t length, const int32_t *ids, int64_t count) {
    return table_add(&words->ids, text, length, ids, count * sizeof *ids);
}

// Write the ids of an ASCII text from `*at` on, and return how many. It ends at a segment that is
// neither known nor merged here, which is at `*at` then and has `*unknown` bytes, or at the end,
// with 0. A token has a byte at least, so that `ids` has room if it has it for as many as there are
// bytes.
VISIBLE int64_t mb_words_ids(mb_words *words, const char *text, int64_t length, int64_t *at, int64_t *unknown,
                             int32_t *ids) {
    int64_t found = 0, p = *at;
    for (*unknown = 0; p < length;) {
        int64_t end = segment_end(text, p, length);
        const slot *own = table_find(&words->ids, text + p, end - p, hash_of(text + p, end - p));
        if (own->length >= 0) {
            memcpy(ids + found, table_value(&words->ids, own), own->size);
            found += own->size / sizeof *ids;
        } else if (words->merges && end - p <= LONGEST) {
            int64_t count = merged_ids(words, text + p, end - p, ids + found);
            mb_words_add(words, text + p, end - p, ids + found, count);  // if it fails, it is merged again
            found += count;
        } else {
            *unknown = end - p;
            break;
        }
        p = end;
    }
    *at = p;
    return found;
}

// Add rows of a table to a sum, in their order; only their first dimensions.
VISIBLE void mb_add_rows(const float *table, int64_t width, const int32_t *ids, int64_t count, int64_t dimensions,
                         float *sum) {
    for (int64_t n = 0; n < count; n++) {
        const float *row = table + ids[n] * width;
        if (n + AHEAD < count)
            for (int64_t d = 0; d < dimensions; d += 16) __builtin_prefetch(table + ids[n + AHEAD] * width + d);
        for (int64_t d = 0; d < dimensions; d++) sum[d] += row[d];
    }
}

// The products of rows in 8 bits with one vector in 16 bits, which fit into 32 bits.
VISIBLE void mb_products(const int8_t *rows, int64_t count, int64_t width, const int16_t *vector, int32_t *out) {
    for (int64_t n = 0; n < count; n++, rows += width) {
        int32_t sum = 0;
        for (int64_t d = 0; d < width; d++) sum += (int32_t)rows[d] * vector[d];
        out[n] = sum;
    }
}
