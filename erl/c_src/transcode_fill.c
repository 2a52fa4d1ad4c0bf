/* Two maps from numbers to numbers (a process of this VM and its place on the wire, each way), and a few nodes' names. */
#include "transcode_fill.h"

#include "../../csrc/include/etf_tags.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NODES 8             /* nodes of references that are kept, each way */
#define NAME_MAX_SIZE 264   /* of a node's atom, and a creation */
#define LING_PID_SIZE 17    /* 160, box, domain, process */
#define REF_WORDS 3         /* those of make_ref(); others are rare */
#define REF_WORD_LIMIT (1u << 18) /* of the first word: beyond it straw_ids.erl has a say */
#define FIRST_ROOM 64

typedef struct {
    uint64_t key, value; /* key: 0 when free */
    bool seen;
} Slot;

/* Open addressing, at most half full. */
typedef struct {
    Slot *slots;
    size_t room, used; /* room: a power of two */
} Map;

typedef struct {
    uint16_t from_size, to_size;
    uint8_t from[NAME_MAX_SIZE], to[NAME_MAX_SIZE];
} Name;

typedef struct {
    Name names[NODES];
    unsigned count, next;
} Names;

struct fill_table {
    uint32_t ours, peer;
    uint64_t seed;
    Map places; /* pid -> domain and id */
    Map pids;   /* domain and id -> pid */
    Names out, in;
    size_t head_size; /* of a pid of this VM: tag and node */
    uint8_t head[FILL_PID_MAX], creation[4];
};

static inline uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void put32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

/* ---- maps ---- */

static size_t start_of(const struct fill_table *table, const Map *map, uint64_t key)
{
    uint64_t h = key ^ table->seed;
    h = (h ^ h >> 33) * 0xFF51AFD7ED558CCDu;
    h = (h ^ h >> 33) * 0xC4CEB9FE1A85EC53u;
    return (size_t)(h ^ h >> 33) & (map->room - 1);
}

/* The key's slot, or the free one where it would be. Not of an empty map. */
static Slot *find(const struct fill_table *table, const Map *map, uint64_t key)
{
    size_t i = start_of(table, map, key);
    while (map->slots[i].key != 0 && map->slots[i].key != key)
        i = (i + 1) & (map->room - 1);
    return &map->slots[i];
}

static Slot *lookup(const struct fill_table *table, const Map *map, uint64_t key)
{
    Slot *slot = map->used != 0 && key != 0 ? find(table, map, key) : NULL;
    return slot != NULL && slot->key != 0 ? slot : NULL;
}

static int grow(const struct fill_table *table, Map *map)
{
    Map more = {.room = map->room == 0 ? FIRST_ROOM : 2 * map->room, .used = map->used};
    if (2 * (map->used + 1) <= map->room)
        return 0;
    more.slots = calloc(more.room, sizeof *more.slots);
    if (more.slots == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < map->room; i++)
        if (map->slots[i].key != 0)
            *find(table, &more, map->slots[i].key) = map->slots[i];
    free(map->slots);
    *map = more;
    return 0;
}

/* There is room. */
static void set(const struct fill_table *table, Map *map, uint64_t key, uint64_t value)
{
    Slot *slot = find(table, map, key);
    map->used += slot->key == 0;
    *slot = (Slot){key, value, false};
}

/* What stands behind it in the same run moves up, as far as it may. */
static void unset(const struct fill_table *table, Map *map, uint64_t key)
{
    Slot *slot = lookup(table, map, key);
    if (slot == NULL)
        return;
    size_t mask = map->room - 1, hole = (size_t)(slot - map->slots);
    for (size_t i = (hole + 1) & mask; map->slots[i].key != 0; i = (i + 1) & mask) {
        size_t start = start_of(table, map, map->slots[i].key);
        if (((i - start) & mask) >= ((i - hole) & mask)) {
            map->slots[hole] = map->slots[i];
            hole = i;
        }
    }
    map->slots[hole].key = 0;
    map->used--;
}

/* ---- what is known ---- */

struct fill_table *fill_new(uint32_t ours, uint32_t peer, uint64_t seed)
{
    struct fill_table *table = calloc(1, sizeof *table);
    if (table == NULL)
        return NULL;
    table->ours = ours;
    table->peer = peer;
    table->seed = seed;
    return table;
}

void fill_free(struct fill_table *table)
{
    if (table == NULL)
        return;
    free(table->places.slots);
    free(table->pids.slots);
    free(table);
}

/* Tag, node, number and serial, creation. */
static bool is_pid(const uint8_t *pid, size_t size)
{
    return size > 13 && size <= FILL_PID_MAX && *pid == TAG_NEW_PID;
}

int fill_node(struct fill_table *table, const uint8_t *pid, size_t size)
{
    if (!is_pid(pid, size))
        return -EINVAL;
    table->head_size = size - 12;
    memcpy(table->head, pid, size - 12);
    memcpy(table->creation, pid + size - 4, 4);
    return 0;
}

/* 0: it is none of this VM. */
static uint64_t pid_key(const struct fill_table *table, const uint8_t *pid, size_t size)
{
    if (table->head_size == 0 || size != table->head_size + 12 || memcmp(pid, table->head, table->head_size) != 0 ||
        memcmp(pid + size - 4, table->creation, 4) != 0)
        return 0;
    return ((uint64_t)get32(pid + size - 12) << 32 | get32(pid + size - 8)) + 1;
}

/* Ids are below 2^27. */
static uint64_t place_key(uint32_t domid, uint32_t id)
{
    return ((uint64_t)domid << 32 | id) + 1;
}

int fill_add(struct fill_table *table, const uint8_t *pid, size_t size, uint32_t domid, uint32_t id)
{
    uint64_t key = pid_key(table, pid, size), place = place_key(domid, id);
    if (key == 0 || place == 0 || (domid != table->ours && domid != table->peer))
        return -EINVAL;
    fill_drop(table, pid, size);
    if (grow(table, &table->places) != 0 || grow(table, &table->pids) != 0)
        return -ENOMEM;
    set(table, &table->places, key, place);
    set(table, &table->pids, place, key);
    return 0;
}

void fill_drop(struct fill_table *table, const uint8_t *pid, size_t size)
{
    if (!is_pid(pid, size))
        return;
    /* Whatever this VM was called when it came. */
    uint64_t key = ((uint64_t)get32(pid + size - 12) << 32 | get32(pid + size - 8)) + 1;
    Slot *slot = lookup(table, &table->places, key);
    if (slot == NULL)
        return;
    unset(table, &table->pids, slot->value);
    unset(table, &table->places, key);
}

bool fill_seen(struct fill_table *table, uint32_t id)
{
    Slot *slot = lookup(table, &table->pids, place_key(table->peer, id));
    bool seen = slot != NULL && slot->seen;
    if (seen)
        slot->seen = false;
    return seen;
}

static const Name *find_name(const Names *names, const uint8_t *from, size_t size)
{
    for (unsigned i = 0; i < names->count; i++)
        if (names->names[i].from_size == size && memcmp(names->names[i].from, from, size) == 0)
            return &names->names[i];
    return NULL;
}

int fill_ref(struct fill_table *table, bool out, const uint8_t *from, size_t from_size, const uint8_t *to, size_t to_size)
{
    Names *names = out ? &table->out : &table->in;
    if (from_size > NAME_MAX_SIZE || to_size > NAME_MAX_SIZE)
        return -EINVAL;
    if (find_name(names, from, from_size) != NULL)
        return 0;
    /* The oldest makes room: straw_ids.erl bounds how many there may be in all. */
    Name *name = &names->names[names->next];
    names->next = (names->next + 1) % NODES;
    names->count += names->count < NODES;
    name->from_size = (uint16_t)from_size;
    name->to_size = (uint16_t)to_size;
    memcpy(name->from, from, from_size);
    memcpy(name->to, to, to_size);
    return 0;
}

/* ---- filling ---- */

typedef struct {
    uint8_t *to, *end;
} Out;

static int put(Out *out, const void *bytes, size_t size)
{
    if ((size_t)(out->end - out->to) < size)
        return -EMSGSIZE;
    memcpy(out->to, bytes, size);
    out->to += size;
    return 0;
}

static int put_pid(struct fill_table *table, const uint8_t *pid, size_t size, bool address, Out *out)
{
    Slot *slot = lookup(table, &table->places, pid_key(table, pid, size));
    uint8_t place[LING_PID_SIZE] = {TAG_LING_PID};
    if (slot == NULL)
        return -ENOENT;
    put32(place + 9, (uint32_t)((slot->value - 1) >> 32));
    put32(place + 13, (uint32_t)(slot->value - 1));
    if (address && get32(place + 9) != table->peer)
        return -ENOENT;
    return put(out, place, sizeof place);
}

static int put_place(struct fill_table *table, const uint8_t *place, bool address, Out *out)
{
    uint64_t boxid;
    uint32_t domid, id;
    transcode_ling_pid(place, &boxid, &domid, &id);
    Slot *slot = boxid == 0 ? lookup(table, &table->pids, place_key(domid, id)) : NULL;
    uint8_t number[8];
    int result;
    if (slot == NULL || (address && domid == table->peer))
        return -ENOENT;
    slot->seen = true;
    put32(number, (uint32_t)((slot->value - 1) >> 32));
    put32(number + 4, (uint32_t)(slot->value - 1));
    result = put(out, table->head, table->head_size);
    if (result == 0)
        result = put(out, number, sizeof number);
    return result == 0 ? put(out, table->creation, sizeof table->creation) : result;
}

static int put_ref(const Names *names, const uint8_t *ref, size_t size, Out *out)
{
    const size_t words = 4 * REF_WORDS;
    if (*ref != TAG_NEWER_REFERENCE || ref[1] != 0 || ref[2] != REF_WORDS || get32(ref + size - words) >= REF_WORD_LIMIT)
        return -ENOENT;
    const Name *name = find_name(names, ref + 3, size - 3 - words);
    if (name == NULL)
        return -ENOENT;
    int result = put(out, ref, 3);
    if (result == 0)
        result = put(out, name->to, name->to_size);
    return result == 0 ? put(out, ref + size - words, words) : result;
}

long fill(struct fill_table *table, const Transcode *t, uint8_t *to, size_t room)
{
    Out out = {to, to + room};
    size_t own = 0;
    bool address = t->address_hole;
    for (size_t i = 0; i < t->count; i++) {
        const TranscodePiece *piece = &t->pieces[i];
        int result = -ENOENT;
        switch (piece->kind) {
        case PIECE_INPUT:
            result = put(&out, transcode_at(t, piece), piece->size);
            break;
        case PIECE_OUTPUT:
            result = put(&out, t->out + own, piece->size);
            own += piece->size;
            break;
        case PIECE_PID:
            if (t->way != TRANSCODE_FROM)
                result = put_pid(table, transcode_at(t, piece), piece->size, address, &out);
            address = false;
            break;
        case PIECE_LING_PID:
            if (t->way == TRANSCODE_FROM && table->head_size != 0)
                result = put_place(table, transcode_at(t, piece), address, &out);
            address = false;
            break;
        case PIECE_REF:
            if (t->way != TRANSCODE_TO_LING && !address)
                result = put_ref(t->way == TRANSCODE_FROM ? &table->in : &table->out, transcode_at(t, piece),
                                 piece->size, &out);
            break;
        }
        if (result != 0)
            return result;
    }
    return out.to - to;
}
