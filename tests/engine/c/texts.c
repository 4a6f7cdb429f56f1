// Token ids and terms of random texts, and states of files, under sanitizers: each text and each
// result lies in memory of its own.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct mb_words mb_words;
typedef struct table table;
mb_words *mb_words_create(int64_t);
int mb_words_add(mb_words *, const char *, int64_t, const int32_t *, int64_t);
int mb_words_merges(mb_words *, const int32_t *, const int32_t *, int64_t);
int64_t mb_words_ids(mb_words *, const char *, int64_t, int64_t *, int64_t *, int32_t *);
void mb_words_free(mb_words *);
table *mb_terms_create(int64_t);
int mb_terms_add(table *, const char *, int64_t, const char *, int64_t);
int64_t mb_terms_of(const table *, const char *, int64_t, int64_t *, int64_t *, char *);
void mb_terms_free(table *);
void mb_states(const char *, int64_t, int64_t *);

#define CHECK(true) \
    if (!(true)) return printf("line %d: %s\n", __LINE__, #true), 1;
enum { MERGES = 400, LARGEST = 5, LONGEST = 128 };

int main(void) {
    srand(1);
    int32_t bytes[128], merges[3 * MERGES];
    for (int32_t i = 0; i < 128; i++) bytes[i] = i;
    for (int32_t i = 0; i < MERGES; i++) {  // of bytes, and of earlier results
        for (int part = 0; part < 2; part++) merges[3 * i + part] = rand() % (i % 3 ? 128 : 128 + i);
        merges[3 * i + 2] = 128 + i;
    }
    for (int most = 0; most < 20000; most = 3 * most + 1) {
        mb_words *words = mb_words_create(most);
        table *terms = mb_terms_create(most);
        for (int round = 0; round < 2000; round++) {
            int64_t length = 1 + rand() % 300, at = 0, unknown = 0, found = 0;
            char *text = malloc(length);
            for (int64_t i = 0; i < length; i++) text[i] = rand() % 4 ? "ab_1' \n"[rand() % 7] : rand() % 128;
            int32_t *ids = malloc(length * sizeof *ids);
            if (round == 200) CHECK(!mb_words_merges(words, bytes, merges, MERGES));
            for (;; at += unknown) {
                found += mb_words_ids(words, text, length, &at, &unknown, ids + found);
                CHECK(found <= at && at <= length);
                if (!unknown) break;
                CHECK(round < 200 || unknown > LONGEST);
                for (int64_t i = 0; i < unknown; i++) ids[found + i] = text[at + i];
                CHECK(!mb_words_add(words, text + at, unknown, ids + found, unknown));
                found += unknown;
            }
            char *out = malloc(LARGEST * length);
            for (at = 0;; at += unknown) {
                CHECK(mb_terms_of(terms, text, length, &at, &unknown, out) <= LARGEST * length);
                if (!unknown) break;
                char *own = malloc(LARGEST * unknown);
                memset(own, 'x', LARGEST * unknown);
                CHECK(!mb_terms_add(terms, text + at, unknown, own, rand() % (LARGEST * unknown)));
                free(own);
            }
            free(text), free(ids), free(out);
        }
        mb_words_free(words), mb_terms_free(terms);
    }
    int64_t states[6];
    mb_states("/\0/no such file", 2, states);
    CHECK(states[1] > 0 && states[3] == -1 && states[5] == -1);
    return 0;
}
