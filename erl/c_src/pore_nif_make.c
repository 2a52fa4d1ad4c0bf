/* Memory, event channels and pores as resources: how they are made, and their ends. */
#define _GNU_SOURCE
#include "pore_nif.h"

#include <unistd.h>

ErlNifResourceType *memory_type, *channel_type, *pore_type;

/* ---- memory and channels: a descriptor each, closed by whoever comes first ---- */

ERL_NIF_TERM memory_make(ErlNifEnv *env, int platform, int fd, uint32_t pages, const uint32_t *page_index) {
    struct memory *memory = enif_alloc_resource(memory_type, sizeof *memory);
    ERL_NIF_TERM term;
    if (!memory) {
        close_fd(fd);
        return atom_none;
    }
    atomic_init(&memory->fd, fd);
    atomic_init(&memory->pore, 0);
    memory->platform = platform;
    memory->pages = pages;
    memory->page_index = NULL;
    atomic_fetch_add(&held->memories, 1);
    if (page_index) {
        memory->page_index = enif_alloc(pages * sizeof *page_index);
        if (memory->page_index) {
            for (uint32_t i = 0; i < pages; i++) memory->page_index[i] = page_index[i];
        } else {
            memory->pages = 0;
        }
    }
    term = enif_make_resource(env, memory);
    enif_release_resource(memory);
    return term;
}

static void memory_free(ErlNifEnv *env, void *object) {
    struct memory *memory = object;
    (void)env;
    close_fd(atomic_exchange(&memory->fd, -1));
    enif_free(memory->page_index);
    atomic_fetch_sub(&held->memories, 1);
}

ERL_NIF_TERM channel_make(ErlNifEnv *env, int fd, uint32_t port) {
    struct channel_end *channel = enif_alloc_resource(channel_type, sizeof *channel);
    ERL_NIF_TERM term;
    if (!channel) {
        close_fd(fd);
        return atom_none;
    }
    atomic_init(&channel->fd, fd);
    channel->port = port;
    atomic_fetch_add(&held->channels, 1);
    term = enif_make_resource(env, channel);
    enif_release_resource(channel);
    return term;
}

static void channel_free(ErlNifEnv *env, void *object) {
    struct channel_end *channel = object;
    (void)env;
    close_fd(atomic_exchange(&channel->fd, -1));
    atomic_fetch_sub(&held->channels, 1);
}

/* close_fd(Memory | Channel) -> ok. Twice is fine. What is mapped stays mapped. */
NIF(nif_close_fd) {
    void *object;
    (void)argc;
    if (enif_get_resource(env, argv[0], memory_type, &object)) {
        close_fd(atomic_exchange(&((struct memory *)object)->fd, -1));
    } else if (enif_get_resource(env, argv[0], channel_type, &object)) {
        close_fd(atomic_exchange(&((struct channel_end *)object)->fd, -1));
    } else {
        return enif_make_badarg(env);
    }
    return atom_ok;
}

/* ---- the end of a pore ---- */

/* Unmapped and hung up when it returns true; then the listener hears of it. */
bool pore_end(ErlNifEnv *env, struct nif_pore *pore) {
    if (!polled_over(env, pore, &pore->polled)) return false;
    if (pore->id) {
        /* The duplicate keeps the channel open for a moment: the peer is to see the end now. */
        pore_fail(pores, pore->id, PORE_REFUSED);
        pore_close(pores, pore->id);
    }
    if (pore->memory) {
        atomic_store(&pore->memory->pore, 0);
        enif_release_resource(pore->memory);
        pore->memory = NULL;
    }
    if (pore->told) {
        pore->told = false;
        enif_send(env, &pore->listener, pore->news_env, pore->news);
    }
    return true;
}

static void pore_free(ErlNifEnv *env, void *object) {
    struct nif_pore *pore = object;
    if (pore->polled.fd >= 0) pore_end(env, pore);
    if (pore->news_env) enif_free_env(pore->news_env);
    enif_free(pore->refs);
    polled_free(&pore->polled);
}

static void pore_owner_down(ErlNifEnv *env, void *object, ErlNifPid *pid, ErlNifMonitor *monitor) {
    (void)pid, (void)monitor;
    pore_end(env, object);
}

static void pore_stop(ErlNifEnv *env, void *object, ErlNifEvent event, int direct) {
    (void)env, (void)object, (void)direct;
    polled_stop(event);
}

/* close(Pore) -> true | false: it was closed before. */
NIF(nif_close) {
    void *object;
    (void)argc;
    if (enif_get_resource(env, argv[0], pore_type, &object)) return pore_end(env, object) ? atom_true : atom_false;
    if (enif_get_resource(env, argv[0], stream_type, &object)) return stream_end(env, object) ? atom_true : atom_false;
    return enif_make_badarg(env);
}

/* ---- makers ---- */

struct request {
    struct pore_options options;
    struct pore_memory memory;
    struct memory *object;
    struct channel_end *channels[2];
    uint32_t channel_count;
};

static int get_role(ErlNifEnv *env, ERL_NIF_TERM term, int *role) {
    *role = enif_is_identical(term, atom(env, "active"))    ? PORE_ACTIVE
            : enif_is_identical(term, atom(env, "passive")) ? PORE_PASSIVE
                                                            : 0;
    return *role;
}

/* {[Ref], [Port], Listener | none, News} */
static bool get_papers(ErlNifEnv *env, ERL_NIF_TERM term, struct nif_pore *pore) {
    const ERL_NIF_TERM *part;
    uint32_t *ports;
    int arity;
    long n;
    if (!enif_get_tuple(env, term, &arity, &part) || arity != 4) return false;
    if ((n = get_words(env, part[0], HOST_ARGS_MAX, &pore->refs)) < 0) return false;
    pore->ref_count = (uint32_t)n;
    if ((n = get_words(env, part[1], 2, &ports)) < 0) return false;
    pore->port_count = (uint32_t)n;
    for (long i = 0; i < n; i++) pore->ports[i] = ports[i];
    enif_free(ports);
    if (enif_is_identical(part[2], atom_none)) return true;
    if (!enif_get_local_pid(env, part[2], &pore->listener)) return false;
    if (!(pore->news_env = enif_alloc_env())) return false;
    pore->news = enif_make_copy(pore->news_env, part[3]);
    return true;
}

static int map_it(struct request *r, struct nif_pore *pore, const uint32_t *refs) {
    int fds[2] = {-1, -1}, error;
    for (uint32_t i = 0; i < r->channel_count; i++) {
        fds[i] = atomic_load(&r->channels[i]->fd);
        r->options.ports[i] = r->channels[i]->port;
    }
    r->memory.fd = atomic_load(&r->object->fd);
    r->memory.pages = r->object->pages;
    r->memory.page_index = r->object->page_index;
    r->memory.platform = r->object->platform;
    if (r->memory.fd < 0 || fds[0] < 0 || (r->channel_count > 1 && fds[1] < 0)) return -EBADF;
    error = r->channel_count > 1 ? pore_open_tube(pores, &r->memory, fds[0], fds[1], refs, &r->options, &pore->id)
                                 : pore_open_straw(pores, &r->memory, fds[0], &r->options, &pore->id);
    if (error) return error;
    /* The descriptors of the channels are the pore's now; that of a mapping has done its work (that of a grant is the grant). */
    for (uint32_t i = 0; i < r->channel_count; i++) atomic_store(&r->channels[i]->fd, -1);
    if (r->options.role == PORE_PASSIVE) close_fd(atomic_exchange(&r->object->fd, -1));
    pore->role = r->options.role;
    pore->memory = r->object;
    enif_keep_resource(r->object);
    atomic_store(&r->object->pore, pore->id);
    return polled_init(&pore->polled, pore_fd(pores, pore->id));
}

/* {ok, Pore} | {error, Errno}. Channels and memory belong to one process until a pore has them (straw_backend). */
static ERL_NIF_TERM make(ErlNifEnv *env, struct request *r, ERL_NIF_TERM papers, bool write_refs) {
    struct nif_pore *pore = enif_alloc_resource(pore_type, sizeof *pore);
    ERL_NIF_TERM term;
    int error;
    if (!pore) return error_errno(env, ENOMEM);
    *pore = (struct nif_pore){.polled = {.fd = -1}};
    if (!get_papers(env, papers, pore) || (write_refs && pore->ref_count != PORE_TUBE_PAGES)) {
        enif_release_resource(pore);
        return enif_make_badarg(env);
    }
    error = map_it(r, pore, write_refs ? pore->refs + 1 : NULL);
    term = enif_make_resource(env, pore);
    if (!error) error = polled_start(env, pore, &pore->polled, enif_make_tuple2(env, atom_irq, term));
    if (error && pore->polled.fd >= 0) pore_end(env, pore);
    else if (error && pore->id) pore_close(pores, pore->id);
    pore->told = !error && pore->news_env;
    enif_release_resource(pore);
    if (error) return error_errno(env, error);
    return enif_make_tuple2(env, atom_ok, term);
}

/* open_straw(Role, Memory, Channel, RingBytes, Suppress, Papers) */
NIF(nif_open_straw) {
    struct request r = {.channel_count = 1};
    void *memory, *channel;
    (void)argc;
    if (!get_role(env, argv[0], &r.options.role) || !enif_get_resource(env, argv[1], memory_type, &memory) ||
        !enif_get_resource(env, argv[2], channel_type, &channel) || !enif_get_uint(env, argv[3], &r.options.ring_bytes))
        return enif_make_badarg(env);
    r.object = memory;
    r.channels[0] = channel;
    r.options.suppress = enif_is_identical(argv[4], atom_true);
    return make(env, &r, argv[5], false);
}

/* open_tube(Role, Memory, Tx, Rx, Papers): the first of the 65 refs is the page, then those of the buffers, tx first. */
NIF(nif_open_tube) {
    struct request r = {.channel_count = 2};
    void *memory, *tx, *rx;
    (void)argc;
    if (!get_role(env, argv[0], &r.options.role) || !enif_get_resource(env, argv[1], memory_type, &memory) ||
        !enif_get_resource(env, argv[2], channel_type, &tx) || !enif_get_resource(env, argv[3], channel_type, &rx) ||
        tx == rx)
        return enif_make_badarg(env);
    r.object = memory;
    r.channels[0] = tx;
    r.channels[1] = rx;
    return make(env, &r, argv[4], true);
}

/* tube_refs(Memory) -> {ok, [Ref]}: what the mapped page says of its 64 buffers. */
NIF(nif_tube_refs) {
    ERL_NIF_TERM terms[PORE_TUBE_BUFFERS];
    uint32_t refs[PORE_TUBE_BUFFERS];
    struct pore_memory page;
    struct memory *memory;
    void *object;
    int error;
    (void)argc;
    if (!enif_get_resource(env, argv[0], memory_type, &object)) return enif_make_badarg(env);
    memory = object;
    page = (struct pore_memory){.fd = atomic_load(&memory->fd), .pages = memory->pages, .page_index = memory->page_index, .platform = memory->platform};
    error = pore_tube_refs(&page, refs);
    if (error) return error_errno(env, error);
    for (int i = 0; i < PORE_TUBE_BUFFERS; i++) terms[i] = enif_make_uint(env, refs[i]);
    return enif_make_tuple2(env, atom_ok, enif_make_list_from_array(env, terms, PORE_TUBE_BUFFERS));
}

/* in_use(Memory) -> boolean(): a pore has it mapped. */
NIF(nif_in_use) {
    void *object;
    (void)argc;
    if (!enif_get_resource(env, argv[0], memory_type, &object)) return enif_make_badarg(env);
    return atomic_load(&((struct memory *)object)->pore) ? atom_true : atom_false;
}

/* fail_user(Memory, Reason) -> ok: the pore that has it mapped, if any, fails. */
NIF(nif_fail_user) {
    void *object;
    uint64_t id;
    int reason;
    (void)argc;
    if (!enif_get_resource(env, argv[0], memory_type, &object) || !enif_get_int(env, argv[1], &reason))
        return enif_make_badarg(env);
    id = atomic_load(&((struct memory *)object)->pore);
    if (id && pore_fail(pores, id, reason) == -EINVAL) return enif_make_badarg(env);
    return atom_ok;
}

int pore_types(ErlNifEnv *env) {
    ErlNifResourceTypeInit plain = {memory_free, NULL, NULL, 0, NULL};
    ErlNifResourceTypeInit full = {pore_free, pore_stop, pore_owner_down, 0, NULL};
    memory_type = enif_open_resource_type_x(env, "memory", &plain, RT_FLAGS, NULL);
    plain.dtor = channel_free;
    channel_type = enif_open_resource_type_x(env, "channel", &plain, RT_FLAGS, NULL);
    pore_type = enif_open_resource_type_x(env, "pore", &full, RT_FLAGS, NULL);
    return !memory_type || !channel_type || !pore_type;
}
