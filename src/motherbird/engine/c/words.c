// For static vectors: the token ids of ASCII texts, by segments that were seen before, sums of the
// rows of a table, and products of vectors in 8 bits. A segment is what the pre-tokenizer of GPT-2 finds; see models/segments.py.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define VISIBLE __attribute__((visibility("default")))
enum { FIRST_SLOTS = 1 << 12, AHEAD = 4 };

// A segment in a hash table: offsets and lengths of its text and its ids; a count of -1 is none.
typedef struct {
    uint32_t hash;
    int32_t length, count;
    int64_t text, ids;
} slot;

typedef struct {
    slot *slots;
    int64_t size, used;  // of the slots; the size is a power of 2
    char *text;
    int64_t text_size, text_used;
    int32_t *ids;
    int64_t ids_size, ids_used;
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

static uint32_t hash_of(const char *text, int64_t length) {  // FNV-1a
    uint32_t hash = 2166136261u;
    for (int64_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)text[i]) * 16777619u;
    return hash;
}

static slot *find(const mb_words *words, const char *text, int64_t length, uint32_t hash) {
    for (int64_t i = hash & (words->size - 1);; i = (i + 1) & (words->size - 1)) {
        slot *own = words->slots + i;
        if (own->count < 0) return own;
        if (own->hash == hash && own->length == length && !memcmp(words->text + own->text, text, length)) return own;
    }
}

static slot *new_slots(int64_t size) {
    slot *made = malloc(size * sizeof *made);
    for (int64_t i = 0; made && i < size; i++) made[i].count = -1;
    return made;
}

VISIBLE void mb_words_free(mb_words *words) {
    if (!words) return;
    free(words->slots), free(words->text), free(words->ids);
    free(words);
}

VISIBLE mb_words *mb_words_create(void) {  // NULL without memory
    mb_words *words = calloc(1, sizeof *words);
    if (words && !(words->slots = new_slots(words->size = FIRST_SLOTS))) {
        free(words);
        return NULL;
    }
    return words;
}

// Make room for more elements of an array; return 0, or -1 without memory.
static int grow(void **array, int64_t *size, int64_t needed, size_t element) {
    if (needed <= *size) return 0;
    int64_t larger = needed + needed / 2 + 64;
    void *moved = realloc(*array, larger * element);
    if (!moved) return -1;
    *array = moved, *size = larger;
    return 0;
}

// Remember the ids of a segment, which is not known yet; return 0, or -1 without memory.
VISIBLE int mb_words_add(mb_words *words, const char *text, int64_t length, const int32_t *ids, int64_t count) {
    if (words->used * 2 >= words->size) {
        mb_words larger = *words;
        if (!(larger.slots = new_slots(larger.size = words->size * 2))) return -1;
        for (int64_t i = 0; i < words->size; i++)
            if (words->slots[i].count >= 0)
                *find(&larger, words->text + words->slots[i].text, words->slots[i].length, words->slots[i].hash) =
                    words->slots[i];
        free(words->slots);
        words->slots = larger.slots, words->size = larger.size;
    }
    if (grow((void **)&words->text, &words->text_size, words->text_used + length, 1) ||
        grow((void **)&words->ids, &words->ids_size, words->ids_used + count, sizeof *ids))
        return -1;
    uint32_t hash = hash_of(text, length);
    slot *own = find(words, text, length, hash);
    if (own->count >= 0) return 0;
    *own = (slot){hash, (int32_t)length, (int32_t)count, words->text_used, words->ids_used};
    memcpy(words->text + words->text_used, text, length);
    memcpy(words->ids + words->ids_used, ids, count * sizeof *ids);
    words->text_used += length, words->ids_used += count, words->used++;
    return 0;
}

// Write the ids of an ASCII text from `*at` on, and return how many. It ends at a segment that is
// not known, which is at `*at` then and has `*unknown` bytes, or at the end, with 0. A token has a
// byte at least, so that `ids` has room if it has it for as many as there are bytes.
VISIBLE int64_t mb_words_ids(const mb_words *words, const char *text, int64_t length, int64_t *at, int64_t *unknown,
                             int32_t *ids) {
    int64_t found = 0, p = *at;
    for (*unknown = 0; p < length;) {
        int64_t end = segment_end(text, p, length);
        const slot *own = find(words, text + p, end - p, hash_of(text + p, end - p));
        if (own->count < 0) {
            *unknown = end - p;
            break;
        }
        for (int32_t i = 0; i < own->count; i++) ids[found++] = words->ids[own->ids + i];
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
