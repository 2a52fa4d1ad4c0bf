/* The transcoder as a NIF: bytes in, a list of binaries and holes out. What the holes are filled with is straw_codec.erl's.
 *
 * Binaries are parts of the argument or of one new binary: nothing large is copied. What takes more than
 * STEPS goes to a dirty scheduler, from the beginning; a large binary is one step.
 */
#include <erl_nif.h>
#include <errno.h>
#include <string.h>

#include "transcode.h"

#define STEPS 16384u        /* some 0.2 ms of work at worst: beyond it a scheduler would be missed */
#define SLICE_STEPS 1024u   /* about a hundredth of the millisecond that a NIF may take */
#define MAX_PARTS 256       /* of term_to_iovec; with more it is cheaper to have one binary */
#define WASTE (4u << 10)    /* bytes that a result may hold without using them */

typedef struct {
    ERL_NIF_TERM ok, error, pid, ling, ref, alias, yes, no, to_otp, to_ling, to_ling_maps, from, memory, size;
} Names;

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

/* 0 when it takes more steps than these. */
static ERL_NIF_TERM run_parts(ErlNifEnv *env, Transcode *t, const ERL_NIF_TERM *parts, ERL_NIF_TERM way)
{
    const Names *names = enif_priv_data(env);
    Grown grown = {.used = false};
    ERL_NIF_TERM answer, out = 0, list = 0;
    t->envelope = true;
    t->resize = grow;
    t->context = &grown;
    t->ling_maps = way == names->to_ling_maps;
    if (way == names->to_otp)
        t->way = TRANSCODE_TO_OTP;
    else if (way == names->to_ling || t->ling_maps)
        t->way = TRANSCODE_TO_LING;
    else if (way == names->from)
        t->way = TRANSCODE_FROM;
    else
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

static int load(ErlNifEnv *env, void **priv, ERL_NIF_TERM info)
{
    Names *names = enif_alloc(sizeof *names);
    (void)info;
    if (names == NULL)
        return 1;
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

static ErlNifFunc functions[] = {{"transcode", 2, transcode_nif, 0}};

ERL_NIF_INIT(straw_codec, functions, load, NULL, upgrade, unload)
