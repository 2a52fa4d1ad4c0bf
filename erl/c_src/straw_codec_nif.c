/* The transcoder as a NIF: bytes in, a list of binaries and holes out. What the holes are filled with is straw_codec.erl's.
 *
 * Binaries are parts of the argument or of one new binary: nothing large is copied. What takes more than
 * STEPS goes to a dirty scheduler, from the beginning; a large binary is one step.
 */
#include <erl_nif.h>
#include <errno.h>
#include <string.h>

#include "transcode_fill.h"

#define STEPS 16384u        /* some 0.2 ms of work at worst: beyond it a scheduler would be missed */
#define SLICE_STEPS 1024u   /* about a hundredth of the millisecond that a NIF may take */
#define MAX_PARTS 256       /* of term_to_iovec; with more it is cheaper to have one binary */
#define WASTE (4u << 10)    /* bytes that a result may hold without using them */
#define KNOWN_MAX 8192u     /* bytes of a message that is filled at once: of larger ones that is not what takes the time */
#define KNOWN_PIECES 32     /* that most messages have; more take memory */
#define ADDRESSES 8         /* receivers that are remembered */
#define ADDRESS_SIZE 128
#define KNOWN_NAME "straw_known_1" /* another one when struct fill_table or struct known change: old ones are passed by then */

typedef struct {
    ERL_NIF_TERM ok, error, pid, ling, ref, alias, yes, no, to_otp, to_ling, to_ling_maps, from, memory, size, unknown, envelope;
    ErlNifResourceType *known_type;
} Names;

/* An address as it came (an external term without its 131) and as a term: an atom or a pid of this VM, both of which are
 * terms in any environment. */
typedef struct {
    size_t size;
    uint8_t bytes[ADDRESS_SIZE];
    ERL_NIF_TERM term;
} Address;

/* The tables of one straw. */
typedef struct {
    ErlNifMutex *lock;
    struct fill_table *table;
    Address addresses[ADDRESSES];
    unsigned next;
} Known;

typedef struct {
    ErlNifBinary binary;
    bool used;
} Grown;

static void *grow(void *context, void *memory, size_t size)
{
    Grown *grown = context;
    (void)memory;
    if (!(grown->used ? enif_realloc_binary(&grown->binary, size) : enif_alloc_binary(size, &grown->binary)))
        return NULL;
    grown->used = true;
    return grown->binary.data;
}

static ERL_NIF_TERM text(ErlNifEnv *env, const void *bytes, size_t size)
{
    ERL_NIF_TERM term;
    uint8_t *to = enif_make_new_binary(env, size, &term);
    memcpy(to, bytes, size);
    return term;
}

/* A node's name in UTF-8. */
static ERL_NIF_TERM node_text(ErlNifEnv *env, const TranscodeName *name)
{
    uint8_t utf8[2 * 256];
    size_t n = 0;
    if (!name->latin1)
        return text(env, name->node, name->node_size);
    for (uint32_t i = 0; i < name->node_size && n + 2 <= sizeof utf8; i++) {
        uint8_t c = name->node[i];
        if (c >= 0x80)
            utf8[n++] = (uint8_t)(0xC0 | c >> 6);
        utf8[n++] = c < 0x80 ? c : (uint8_t)(0x80 | (c & 0x3F));
    }
    return text(env, utf8, n);
}

/* A pid or reference that term_to_binary wrote, as a term; 0 when it is none after all. */
static int term_of(ErlNifEnv *env, const uint8_t *bytes, size_t size, ERL_NIF_TERM *term)
{
    uint8_t copy[1200]; /* a name of 1,020 bytes and five words */
    if (size + 1 > sizeof copy)
        return 0;
    copy[0] = 131;
    memcpy(copy + 1, bytes, size);
    return enif_binary_to_term(env, copy, size + 1, term, ERL_NIF_BIN2TERM_SAFE) == size + 1;
}

/* 0 when it is not a term here. */
static int hole_term(ErlNifEnv *env, const Names *names, const Transcode *t, const TranscodePiece *piece,
                     ERL_NIF_TERM *term)
{
    const uint8_t *bytes = transcode_at(t, piece);
    TranscodeName name;
    ERL_NIF_TERM own = 0, words[TRANSCODE_MAX_REF_WORDS], from = piece->from ? names->yes : names->no;
    bool ours = t->way != TRANSCODE_FROM;
    if (ours && !term_of(env, bytes, piece->size, &own))
        return 0;
    switch (piece->kind) {
    case PIECE_LING_PID: {
        uint64_t boxid;
        uint32_t domid, id;
        transcode_ling_pid(bytes, &boxid, &domid, &id);
        *term = enif_make_tuple4(env, names->ling, enif_make_uint64(env, boxid), enif_make_uint(env, domid),
                                 enif_make_uint(env, id));
        return 1;
    }
    case PIECE_PID:
        if (ours) {
            *term = enif_make_tuple2(env, names->pid, own);
            return 1;
        }
        transcode_pid(bytes, &name);
        *term = enif_make_tuple5(env, names->pid, node_text(env, &name), enif_make_uint(env, name.id),
                                 enif_make_uint(env, name.serial), enif_make_uint(env, name.creation));
        return 1;
    case PIECE_ALIAS:
        *term = enif_make_tuple3(env, names->alias, from, own);
        return 1;
    default:
        transcode_ref(bytes, &name);
        for (uint32_t i = 0; i < name.count; i++)
            words[i] = enif_make_uint(env, name.words[i]);
        ERL_NIF_TERM list = enif_make_list_from_array(env, words, name.count);
        ERL_NIF_TERM node = node_text(env, &name), creation = enif_make_uint(env, name.creation);
        *term = ours ? enif_make_tuple6(env, names->ref, from, own, node, creation, list)
                     : enif_make_tuple4(env, names->ref, node, creation, list);
        return 1;
    }
}

static ERL_NIF_TERM failed(ErlNifEnv *env, const Names *names, ERL_NIF_TERM reason, size_t at)
{
    return enif_make_tuple3(env, names->error, reason, enif_make_uint64(env, at));
}

/* The pieces as a list; the result is that of transcode(), or -EINVAL. parts: the terms of the input. */
static int make_list(ErlNifEnv *env, const Names *names, Transcode *t, const ERL_NIF_TERM *parts, ERL_NIF_TERM out,
                     ERL_NIF_TERM *list)
{
    size_t out_at = t->out_size;
    *list = enif_make_list(env, 0);
    for (size_t i = t->count; i-- > 0;) {
        const TranscodePiece *p = &t->pieces[i];
        ERL_NIF_TERM piece;
        if (p->kind == PIECE_INPUT) {
            size_t whole = p->part == 0 ? t->size : t->more[p->part - 1].size;
            piece = p->size == whole ? parts[p->part] : enif_make_sub_binary(env, parts[p->part], p->at, p->size);
        } else if (p->kind == PIECE_OUTPUT) {
            out_at -= p->size;
            piece = enif_make_sub_binary(env, out, out_at, p->size);
        } else if (!hole_term(env, names, t, p, &piece)) {
            t->error = "a pid or reference that is none";
            t->error_at = p->at;
            return -EINVAL;
        }
        *list = enif_make_list_cell(env, piece, *list);
    }
    return 0;
}

static bool set_way(const Names *names, ERL_NIF_TERM way, Transcode *t)
{
    t->ling_maps = way == names->to_ling_maps;
    t->way = way == names->to_otp ? TRANSCODE_TO_OTP : way == names->from ? TRANSCODE_FROM : TRANSCODE_TO_LING;
    return t->way != TRANSCODE_TO_LING || t->ling_maps || way == names->to_ling;
}

/* 0 when it takes more steps than these. */
static ERL_NIF_TERM run_parts(ErlNifEnv *env, Transcode *t, const ERL_NIF_TERM *parts, ERL_NIF_TERM way)
{
    const Names *names = enif_priv_data(env);
    Grown grown = {.used = false};
    ERL_NIF_TERM answer, out = 0, list = 0;
    t->envelope = true;
    t->resize = grow;
    t->context = &grown;
    if (!set_way(names, way, t))
        return enif_make_badarg(env);
    int result = transcode(t);
    if (result != 0 && grown.used) {
        enif_release_binary(&grown.binary);
    } else if (grown.used) {
        if (t->out_room - t->out_size > WASTE)
            enif_realloc_binary(&grown.binary, t->out_size);
        out = enif_make_binary(env, &grown.binary); /* the term's from here on */
    }
    if (result == 0)
        result = make_list(env, names, t, parts, out, &list);
    if (result == 0)
        answer = enif_make_tuple3(env, names->ok, t->address_hole ? names->yes : names->no, list);
    else if (result == -ENOMEM)
        answer = failed(env, names, names->memory, 0);
    else if (result == -EMSGSIZE)
        answer = failed(env, names, names->size, 0);
    else if (result == -EAGAIN)
        answer = 0;
    else
        answer = failed(env, names, text(env, t->error, strlen(t->error)), t->error_at);
    if (t->steps != 0)
        enif_consume_timeslice(env, 1 + (int)(t->taken / SLICE_STEPS));
    transcode_free(t);
    return answer;
}

static ERL_NIF_TERM run(ErlNifEnv *env, const ERL_NIF_TERM argv[], size_t steps)
{
    Transcode t = {.steps = steps};
    ErlNifBinary binary;
    if (enif_inspect_binary(env, argv[0], &binary)) {
        t.in = binary.data;
        t.size = binary.size;
        return run_parts(env, &t, argv, argv[1]);
    }
    ERL_NIF_TERM parts[MAX_PARTS], list = argv[0];
    TranscodePart more[MAX_PARTS];
    unsigned count = 0;
    while (count < MAX_PARTS && enif_get_list_cell(env, list, &parts[count], &list)) {
        if (!enif_inspect_binary(env, parts[count], &binary))
            return enif_make_badarg(env);
        more[count++] = (TranscodePart){binary.data, binary.size};
    }
    if (count == 0 || !enif_is_empty_list(env, list))
        return enif_make_badarg(env);
    t.in = more[0].bytes;
    t.size = more[0].size;
    t.more = more + 1;
    t.more_count = count - 1;
    return run_parts(env, &t, parts, argv[1]);
}

static ERL_NIF_TERM transcode_dirty(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    (void)argc;
    return run(env, argv, 0);
}

/* transcode(Bytes | [Bytes], to_otp | to_ling | to_ling_maps | from) */
static ERL_NIF_TERM transcode_nif(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    ERL_NIF_TERM answer = run(env, argv, STEPS);
    if (answer == 0)
        return enif_schedule_nif(env, "transcode", ERL_NIF_DIRTY_JOB_CPU_BOUND, transcode_dirty, argc, argv);
    return answer;
}

/* ---- with all holes filled ---- */

static void known_free(ErlNifEnv *env, void *object)
{
    Known *known = object;
    (void)env;
    fill_free(known->table);
    if (known->lock != NULL)
        enif_mutex_destroy(known->lock);
}

/* NULL: it is none, or an older library's. */
static Known *get_known(ErlNifEnv *env, ERL_NIF_TERM term)
{
    const Names *names = enif_priv_data(env);
    void *object;
    return enif_get_resource(env, term, names->known_type, &object) ? object : NULL;
}

/* known_new(Ours, Peer, Seed) -> Known */
static ERL_NIF_TERM known_new(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    const Names *names = enif_priv_data(env);
    unsigned ours, peer;
    ErlNifUInt64 seed;
    (void)argc;
    if (!enif_get_uint(env, argv[0], &ours) || !enif_get_uint(env, argv[1], &peer) ||
        !enif_get_uint64(env, argv[2], &seed))
        return enif_make_badarg(env);
    Known *known = enif_alloc_resource(names->known_type, sizeof *known);
    if (known == NULL)
        return names->unknown;
    memset(known, 0, sizeof *known);
    known->lock = enif_mutex_create((char *)"straw_known");
    known->table = fill_new(ours, peer, seed);
    ERL_NIF_TERM term = known->lock != NULL && known->table != NULL ? enif_make_resource(env, known) : names->unknown;
    enif_release_resource(known);
    return term;
}

/* An external term without its 131. */
static bool get_term_bytes(ErlNifEnv *env, ERL_NIF_TERM term, ErlNifBinary *binary)
{
    if (!enif_inspect_binary(env, term, binary) || binary->size < 2 || binary->data[0] != 131)
        return false;
    binary->data++;
    binary->size--;
    return true;
}

/* The tables and a pid's bytes, which these begin with; true: go on; else *answer, of tables that an older library has
 * made (they know nothing) or of a wrong argument. */
static bool known_pid(ErlNifEnv *env, const ERL_NIF_TERM argv[], Known **known, ErlNifBinary *pid, ERL_NIF_TERM *answer)
{
    *known = get_known(env, argv[0]);
    if (*known != NULL && get_term_bytes(env, argv[1], pid))
        return true;
    *answer = *known == NULL ? ((const Names *)enif_priv_data(env))->no : enif_make_badarg(env);
    return false;
}

/* known_node(Known, PidBytes) -> true | false */
static ERL_NIF_TERM known_node(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    const Names *names = enif_priv_data(env);
    Known *known;
    ErlNifBinary pid;
    ERL_NIF_TERM answer;
    (void)argc;
    if (!known_pid(env, argv, &known, &pid, &answer))
        return answer;
    enif_mutex_lock(known->lock);
    int result = fill_node(known->table, pid.data, pid.size);
    enif_mutex_unlock(known->lock);
    return result == 0 ? names->yes : names->no;
}

/* known_add(Known, PidBytes, Domid, Id) -> true | false */
static ERL_NIF_TERM known_add(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    const Names *names = enif_priv_data(env);
    Known *known;
    ErlNifBinary pid;
    ERL_NIF_TERM answer;
    unsigned domid, id;
    (void)argc;
    if (!known_pid(env, argv, &known, &pid, &answer))
        return answer;
    if (!enif_get_uint(env, argv[2], &domid) || !enif_get_uint(env, argv[3], &id))
        return enif_make_badarg(env);
    enif_mutex_lock(known->lock);
    int result = fill_add(known->table, pid.data, pid.size, domid, id);
    enif_mutex_unlock(known->lock);
    return result == 0 ? names->yes : names->no;
}

/* known_drop(Known, PidBytes) -> true | false */
static ERL_NIF_TERM known_drop(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    const Names *names = enif_priv_data(env);
    Known *known;
    ErlNifBinary pid;
    ERL_NIF_TERM answer;
    (void)argc;
    if (!known_pid(env, argv, &known, &pid, &answer))
        return answer;
    enif_mutex_lock(known->lock);
    fill_drop(known->table, pid.data, pid.size);
    enif_mutex_unlock(known->lock);
    return names->yes;
}

/* known_ref(Known, to_otp | from, From, To) -> true | false */
static ERL_NIF_TERM known_ref(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    const Names *names = enif_priv_data(env);
    Known *known = get_known(env, argv[0]);
    ErlNifBinary from, to;
    (void)argc;
    if (known == NULL)
        return names->no;
    if (!enif_inspect_binary(env, argv[2], &from) || !enif_inspect_binary(env, argv[3], &to))
        return enif_make_badarg(env);
    enif_mutex_lock(known->lock);
    int result = fill_ref(known->table, argv[1] == names->to_otp, from.data, from.size, to.data, to.size);
    enif_mutex_unlock(known->lock);
    return result == 0 ? names->yes : names->no;
}

/* known_seen(Known, Id) -> boolean() */
static ERL_NIF_TERM known_seen(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    const Names *names = enif_priv_data(env);
    Known *known = get_known(env, argv[0]);
    unsigned id;
    (void)argc;
    if (known == NULL)
        return names->no;
    if (!enif_get_uint(env, argv[1], &id))
        return enif_make_badarg(env);
    enif_mutex_lock(known->lock);
    bool seen = fill_seen(known->table, id);
    enif_mutex_unlock(known->lock);
    return seen ? names->yes : names->no;
}

/* Where a small message is put together: one for each scheduler thread, as a NIF is never interrupted. */
static __thread struct {
    uint8_t own[2 * KNOWN_MAX], filled[4 * KNOWN_MAX];
} desk;

static void *on_desk(void *context, void *memory, size_t size)
{
    (void)context, (void)memory;
    return size <= sizeof desk.own ? desk.own : NULL;
}

/* The bytes on the desk, or < 0: too large, not sound, not all known. Then the other functions say why. */
static long on_the_desk(ErlNifEnv *env, const ERL_NIF_TERM argv[], ERL_NIF_TERM way)
{
    Known *known = get_known(env, argv[0]);
    ErlNifBinary binary;
    TranscodePiece first[KNOWN_PIECES];
    if (known == NULL || !enif_inspect_binary(env, argv[1], &binary) || binary.size > KNOWN_MAX)
        return -ENOENT;
    Transcode t = {.in = binary.data, .size = binary.size, .envelope = true, .steps = STEPS, .resize = on_desk};
    t.first = first;
    t.first_room = KNOWN_PIECES;
    if (!set_way(enif_priv_data(env), way, &t))
        return -ENOENT;
    long size = transcode(&t);
    if (size == 0) {
        enif_mutex_lock(known->lock);
        size = fill(known->table, &t, desk.filled, sizeof desk.filled);
        enif_mutex_unlock(known->lock);
    }
    if (t.taken >= SLICE_STEPS)
        enif_consume_timeslice(env, (int)(t.taken / SLICE_STEPS));
    transcode_free(&t);
    return size;
}

/* known_write(Known, EnvelopeBytes, to_otp | to_ling | to_ling_maps) -> Frame | unknown */
static ERL_NIF_TERM known_write(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    long size = on_the_desk(env, argv, argv[2]);
    (void)argc;
    return size < 0 ? ((const Names *)enif_priv_data(env))->unknown : text(env, desk.filled, (size_t)size);
}

/* How long the address is, if it is one that may be remembered; else 0. */
static size_t address_size(const uint8_t *bytes, size_t left)
{
    bool pid = left > 1 && bytes[0] == 88;
    const uint8_t *atom = bytes + pid;
    size_t size = left < (size_t)pid + 3      ? 0
                  : *atom == 119              ? 2u + atom[1]
                  : *atom == 100              ? 3u + (size_t)(atom[1] << 8 | atom[2])
                                              : 0;
    if (size == 0)
        return 0;
    size += pid ? 13 : 0;
    return size <= left && size <= ADDRESS_SIZE ? size : 0;
}

/* 0: it is none here. */
static ERL_NIF_TERM address_of(ErlNifEnv *env, Known *known, uint8_t *bytes, size_t size)
{
    for (unsigned i = 0; i < ADDRESSES; i++) {
        const Address *a = &known->addresses[i];
        if (a->size == size && memcmp(a->bytes, bytes, size) == 0)
            return a->term;
    }
    Address *a = &known->addresses[known->next];
    ErlNifPid pid;
    ERL_NIF_TERM term;
    uint8_t before = bytes[-1];
    bytes[-1] = 131;
    size_t read = enif_binary_to_term(env, bytes - 1, size + 1, &term, ERL_NIF_BIN2TERM_SAFE);
    bytes[-1] = before;
    if (read != size + 1 || !(enif_is_atom(env, term) || enif_get_local_pid(env, term, &pid)))
        return 0;
    known->next = (known->next + 1) % ADDRESSES;
    a->size = size;
    memcpy(a->bytes, bytes, size);
    return a->term = term;
}

/* known_read(Known, Frame) -> Envelope | unknown. Atoms that are not there are not made. */
static ERL_NIF_TERM known_read(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    static const uint8_t head[] = {131, 104, 3, 119, 8, 'e', 'n', 'v', 'e', 'l', 'o', 'p', 'e'};
    const Names *names = enif_priv_data(env);
    long filled = on_the_desk(env, argv, names->from);
    size_t size = (size_t)filled, at = sizeof head, length;
    ERL_NIF_TERM term, address = 0;
    (void)argc;
    if (filled < 0)
        return names->unknown;
    if (size > at && memcmp(desk.filled, head, at) == 0 && (length = address_size(desk.filled + at, size - at)) != 0) {
        Known *known = get_known(env, argv[0]);
        enif_mutex_lock(known->lock);
        address = address_of(env, known, desk.filled + at, length);
        enif_mutex_unlock(known->lock);
        at += length - 1; /* where 131 goes, before the message */
        desk.filled[at] = 131;
    } else {
        at = 0;
    }
    if ((at != 0 && address == 0) ||
        enif_binary_to_term(env, desk.filled + at, size - at, &term, ERL_NIF_BIN2TERM_SAFE) != size - at)
        return names->unknown;
    return address != 0 ? enif_make_tuple3(env, names->envelope, address, term) : term;
}

static int load(ErlNifEnv *env, void **priv, ERL_NIF_TERM info)
{
    Names *names = enif_alloc(sizeof *names);
    ErlNifResourceTypeInit init = {.dtor = known_free};
    (void)info;
    if (names == NULL)
        return 1;
    names->known_type = enif_open_resource_type_x(env, KNOWN_NAME, &init,
                                                  (ErlNifResourceFlags)(ERL_NIF_RT_CREATE | ERL_NIF_RT_TAKEOVER), NULL);
    if (names->known_type == NULL) {
        enif_free(names);
        return 1;
    }
    names->ok = enif_make_atom(env, "ok");
    names->error = enif_make_atom(env, "error");
    names->pid = enif_make_atom(env, "pid");
    names->ling = enif_make_atom(env, "ling");
    names->ref = enif_make_atom(env, "ref");
    names->alias = enif_make_atom(env, "alias");
    names->yes = enif_make_atom(env, "true");
    names->no = enif_make_atom(env, "false");
    names->to_otp = enif_make_atom(env, "to_otp");
    names->to_ling = enif_make_atom(env, "to_ling");
    names->to_ling_maps = enif_make_atom(env, "to_ling_maps");
    names->from = enif_make_atom(env, "from");
    names->memory = enif_make_atom(env, "enomem");
    names->size = enif_make_atom(env, "emsgsize");
    names->unknown = enif_make_atom(env, "unknown");
    names->envelope = enif_make_atom(env, "envelope");
    *priv = names;
    return 0;
}

static int upgrade(ErlNifEnv *env, void **priv, void **old_priv, ERL_NIF_TERM info)
{
    (void)old_priv;
    return load(env, priv, info);
}

static void unload(ErlNifEnv *env, void *priv)
{
    (void)env;
    enif_free(priv);
}

static ErlNifFunc functions[] = {
    {"transcode", 2, transcode_nif, 0},
    {"known_new", 3, known_new, 0},
    {"known_node", 2, known_node, 0},
    {"known_add", 4, known_add, 0},
    {"known_drop", 2, known_drop, 0},
    {"known_ref", 4, known_ref, 0},
    {"known_seen", 2, known_seen, 0},
    {"known_write", 3, known_write, 0},
    {"known_read", 2, known_read, 0},
};

ERL_NIF_INIT(straw_codec, functions, load, NULL, upgrade, unload)
