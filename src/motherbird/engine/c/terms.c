// The terms of ASCII texts, by those of words that were seen before; see search/terms.py.
#include "table.h"

static int is_of_word(unsigned char c) {
    return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_';
}

VISIBLE void mb_terms_free(table *terms) {
    if (!terms) return;
    table_free(terms);
    free(terms);
}

// Return an object that remembers the terms of `most` words at most; NULL without memory.
VISIBLE table *mb_terms_create(int64_t most) {
    table *terms = malloc(sizeof *terms);
    if (terms && table_init(terms, most)) {
        free(terms);
        return NULL;
    }
    return terms;
}

// Remember the terms of a word, joined by spaces; return 0, or -1 without memory.
VISIBLE int mb_terms_add(table *terms, const char *word, int64_t length, const char *own, int64_t size) {
    return table_add(terms, word, length, own, size);
}

// Write the terms of an ASCII text from `*at` on, each with a space after it, and return how many
// bytes. It ends at a word that is not known, which is at `*at` then and has `*unknown` bytes, or
// at the end, with 0. `out` has room for the terms of as many words as there can be.
VISIBLE int64_t mb_terms_of(const table *terms, const char *text, int64_t length, int64_t *at, int64_t *unknown,
                            char *out) {
    int64_t written = 0, p = *at;
    for (*unknown = 0; p < length;) {
        if (!is_of_word(text[p])) {
            p++;
            continue;
        }
        int64_t end = p + 1;
        while (end < length && is_of_word(text[end])) end++;
        const slot *own = table_find(terms, text + p, end - p, hash_of(text + p, end - p));
        if (own->length < 0) {
            *unknown = end - p;
            break;
        }
        memcpy(out + written, table_value(terms, own), own->size);
        written += own->size;
        if (own->size) out[written++] = ' ';
        p = end;
    }
    *at = p;
    return written;
}
