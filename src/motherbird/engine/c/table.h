// A hash table from short texts to bytes. When it is full, it is emptied.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define VISIBLE __attribute__((visibility("default")))
enum { FIRST_SLOTS = 1 << 12, LONGEST = 128 };  // bytes of a text

// Lengths and offset of a text and its value, which follows it; a length of -1 is none.
typedef struct {
    uint32_t hash;
    int32_t length, size;
    int64_t at;
} slot;

typedef struct {
    slot *slots;
    char *bytes;
    int64_t count, used, most;  // slots (a power of 2), entries, and entries at most
    int64_t bytes_size, bytes_used;
} table;

static slot *new_slots(int64_t count) {
    slot *made = malloc(count * sizeof *made);
    for (int64_t i = 0; made && i < count; i++) made[i].length = -1;
    return made;
}

// Make an empty table; return 0, or -1 without memory.
static int table_init(table *t, int64_t most) {
    *t = (table){.count = FIRST_SLOTS, .most = most};
    return (t->slots = new_slots(t->count)) ? 0 : -1;
}

static void table_free(table *t) { free(t->slots), free(t->bytes); }

static uint32_t hash_of(const char *text, int64_t length) {  // FNV-1a
    uint32_t hash = 2166136261u;
    for (int64_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)text[i]) * 16777619u;
    return hash;
}

// Return the slot of a text, or a free one with a length of -1.
static slot *table_find(const table *t, const char *text, int64_t length, uint32_t hash) {
    for (int64_t i = hash & (t->count - 1);; i = (i + 1) & (t->count - 1)) {
        slot *own = t->slots + i;
        if (own->length < 0) return own;
        if (own->hash == hash && own->length == length && !memcmp(t->bytes + own->at, text, length)) return own;
    }
}

// Return the value of a slot; it is aligned to 4 bytes.
static const char *table_value(const table *t, const slot *own) {
    return t->bytes + own->at + ((own->length + 3) & ~3);
}

// Add a text and its value, unless it is there or longer than `LONGEST`; return 0, or -1 without
// memory.
static int table_add(table *t, const char *text, int64_t length, const void *value, int64_t size) {
    if (length > LONGEST || !t->most) return 0;
    if (t->used >= t->most) {
        for (int64_t i = 0; i < t->count; i++) t->slots[i].length = -1;
        t->used = t->bytes_used = 0;
    }
    if (t->used * 2 >= t->count) {
        table larger = *t;
        if (!(larger.slots = new_slots(larger.count = t->count * 2))) return -1;
        for (int64_t i = 0; i < t->count; i++)
            if (t->slots[i].length >= 0)
                *table_find(&larger, t->bytes + t->slots[i].at, t->slots[i].length, t->slots[i].hash) = t->slots[i];
        free(t->slots);
        *t = larger;
    }
    int64_t room = ((length + 3) & ~3) + ((size + 3) & ~3);
    if (t->bytes_used + room > t->bytes_size) {
        int64_t larger = t->bytes_used + t->bytes_used / 2 + room;
        char *moved = realloc(t->bytes, larger);
        if (!moved) return -1;
        t->bytes = moved, t->bytes_size = larger;
    }
    uint32_t hash = hash_of(text, length);
    slot *own = table_find(t, text, length, hash);
    if (own->length >= 0) return 0;
    *own = (slot){hash, (int32_t)length, (int32_t)size, t->bytes_used};
    memcpy(t->bytes + own->at, text, length);
    memcpy((char *)table_value(t, own), value, size);
    t->bytes_used += room, t->used++;
    return 0;
}
