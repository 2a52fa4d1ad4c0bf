/* pore_nif.so: the pores of csrc/pore on a BEAM. Here: loading, the table of functions, and what all files share. */
#define _GNU_SOURCE
#include "pore_nif.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "../../csrc/pore/core.h"

struct pore_table *pores;
struct held *held;
ERL_NIF_TERM atom_ok, atom_error, atom_true, atom_false, atom_irq, atom_none;

/* ---- words ---- */

ERL_NIF_TERM atom(ErlNifEnv *env, const char *name) { return enif_make_atom(env, name); }

ERL_NIF_TERM error_tuple(ErlNifEnv *env, const char *name) { return enif_make_tuple2(env, atom_error, atom(env, name)); }

static const struct {
    int number;
    const char *name;
} errnos[] = {
    {EPERM, "eperm"},         {ENOENT, "enoent"},   {EACCES, "eacces"}, {EBUSY, "ebusy"},       {EEXIST, "eexist"},
    {EINVAL, "einval"},       {EMFILE, "emfile"},   {ENFILE, "enfile"}, {ENOMEM, "enomem"},     {ENOSPC, "enospc"},
    {EAGAIN, "eagain"},       {EPIPE, "epipe"},     {EPROTO, "eproto"}, {EBADMSG, "ebadmsg"},   {EMSGSIZE, "emsgsize"},
    {ECONNREFUSED, "econnrefused"}, {ENAMETOOLONG, "enametoolong"}, {ENOTDIR, "enotdir"}, {EBADF, "ebadf"},
    {EPROTOTYPE, "eprototype"}, {ENOTSOCK, "enotsock"}, {ENODEV, "enodev"}, {ENXIO, "enxio"}, {EFAULT, "efault"},
    {ENOSYS, "enosys"}, {EOPNOTSUPP, "eopnotsupp"}, {ETIMEDOUT, "etimedout"}, {EIO, "eio"},
};

ERL_NIF_TERM error_errno(ErlNifEnv *env, int error) {
    if (error < 0) error = -error;
    for (size_t i = 0; i < sizeof errnos / sizeof errnos[0]; i++) {
        if (errnos[i].number == error) return error_tuple(env, errnos[i].name);
    }
    return enif_make_tuple2(env, atom_error, enif_make_int(env, error));
}

void spent(ErlNifEnv *env, size_t bytes) {
    size_t percent = bytes / BYTES_PER_PERCENT;
    if (percent) enif_consume_timeslice(env, percent < 100 ? (int)percent : 100);
}

int close_fd(int fd) { return fd >= 0 ? close(fd) : 0; }

ERL_NIF_TERM make_words(ErlNifEnv *env, const uint32_t *from, uint32_t count) {
    ERL_NIF_TERM list = enif_make_list(env, 0);
    while (count--) list = enif_make_list_cell(env, enif_make_uint(env, from[count]), list);
    return list;
}

long get_words(ErlNifEnv *env, ERL_NIF_TERM list, uint32_t most, uint32_t **words) {
    ERL_NIF_TERM head;
    unsigned length, word;
    *words = NULL;
    if (!enif_get_list_length(env, list, &length) || length > most) return -1;
    if (!length) return 0;
    *words = enif_alloc(length * sizeof **words);
    if (!*words) return -1;
    for (unsigned i = 0; enif_get_list_cell(env, list, &head, &list); i++) {
        if (!enif_get_uint(env, head, &word)) {
            enif_free(*words);
            *words = NULL;
            return -1;
        }
        (*words)[i] = word;
    }
    return (long)length;
}

/* ---- what is polled ---- */

int polled_init(struct polled *p, int fd) {
    p->fd = -1;
    atomic_init(&p->over, false);
    p->monitored = p->selected = false;
    p->lock = enif_mutex_create((char *)"pore_nif");
    if (!p->lock) return -ENOMEM;
    p->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (p->fd < 0) return -errno;
    atomic_fetch_add(&held->polled, 1);
    return 0;
}

int polled_start(ErlNifEnv *env, void *object, struct polled *p, ERL_NIF_TERM message) {
    if (!enif_self(env, &p->owner) || enif_monitor_process(env, object, &p->owner, &p->monitor)) return -ESRCH;
    p->monitored = true;
    return polled_arm(env, object, p, message, false) ? 0 : -EBADF;
}

bool polled_arm(ErlNifEnv *env, void *object, struct polled *p, ERL_NIF_TERM message, bool writable) {
    int done = -1;
    enif_mutex_lock(p->lock);
    if (!p->over) {
        done = writable ? enif_select_write(env, p->fd, object, &p->owner, message, NULL)
                        : enif_select_read(env, p->fd, object, &p->owner, message, NULL);
        if (done >= 0) p->selected = true;
    }
    enif_mutex_unlock(p->lock);
    return done >= 0;
}

void polled_stop(int fd) {
    if (fd < 0) return;
    close(fd);
    atomic_fetch_sub(&held->polled, 1);
}

bool polled_over(ErlNifEnv *env, void *object, struct polled *p) {
    bool first;
    enif_mutex_lock(p->lock);
    first = !p->over;
    p->over = true;
    /* The stop callback closes the fd, now or as soon as no thread polls it; it takes no lock. */
    if (first && p->selected) enif_select(env, p->fd, ERL_NIF_SELECT_STOP, object, NULL, atom_none);
    else if (first) polled_stop(p->fd);
    enif_mutex_unlock(p->lock);
    if (first && p->monitored) enif_demonitor_process(env, object, &p->monitor);
    return first;
}

void polled_free(struct polled *p) {
    if (p->lock) enif_mutex_destroy(p->lock);
    p->lock = NULL;
}

/* ---- the library ---- */

static ERL_NIF_TERM count(ErlNifEnv *env, const char *name, long n) {
    return enif_make_tuple2(env, atom(env, name), enif_make_long(env, n));
}

/* held() -> [{Kind, Count}] */
static NIF(nif_held) {
    (void)argc, (void)argv;
    return enif_make_list6(env, count(env, "memories", atomic_load(&held->memories)),
                           count(env, "channels", atomic_load(&held->channels)),
                           count(env, "pores", (long)pore_table_count(pores)),
                           count(env, "hosts", atomic_load(&held->hosts)),
                           count(env, "streams", atomic_load(&held->streams)),
                           count(env, "polled", atomic_load(&held->polled)));
}

/* What goes from one library to the next, when the module is loaded anew: open pores among it. */
struct kept {
    size_t sizes[6];
    struct pore_table *pores;
    struct held held;
};

static const size_t sizes[6] = {
    PORE_NIF_LAYOUT, sizeof(struct pore), sizeof(struct nif_pore), sizeof(struct memory), sizeof(struct channel_end), sizeof(struct kept),
};

static struct kept *kept; /* never freed: pores may outlive the module's code */

static struct kept *new_kept(void) {
    struct kept *fresh = enif_alloc(sizeof *fresh);
    if (!fresh) return NULL;
    *fresh = (struct kept){.pores = pore_table_new(PORES_MAX)};
    memcpy(fresh->sizes, sizes, sizeof sizes);
    if (fresh->pores) return fresh;
    enif_free(fresh);
    return NULL;
}

static int start(ErlNifEnv *env) {
    pores = kept->pores;
    held = &kept->held;
    atom_ok = atom(env, "ok");
    atom_error = atom(env, "error");
    atom_true = atom(env, "true");
    atom_false = atom(env, "false");
    atom_irq = atom(env, "irq");
    atom_none = atom(env, "none");
    return pore_types(env) || host_types(env) || stream_types(env) ? EINVAL : 0;
}

static int load(ErlNifEnv *env, void **priv, ERL_NIF_TERM info) {
    (void)info;
    if (!kept) kept = new_kept();
    if (!kept) return ENOMEM;
    *priv = kept;
    return start(env);
}

/* A new library, or this one once more, takes over everything that there is. The old one stays mapped (-z nodelete): open
 * pores have its functions (struct pore_backend). */
static int upgrade(ErlNifEnv *env, void **priv, void **old_priv, ERL_NIF_TERM info) {
    struct kept *old = *old_priv;
    (void)info;
    if (!old || memcmp(old->sizes, sizes, sizeof sizes) != 0) return EPROTO;
    *priv = kept = old;
    return start(env);
}

static ErlNifFunc functions[] = {
    {"open_straw", 6, nif_open_straw, 0},
    {"open_tube", 5, nif_open_tube, 0},
    {"tube_refs", 1, nif_tube_refs, 0},
    {"close", 1, nif_close, 0},
    {"fail_user", 2, nif_fail_user, 0},
    {"in_use", 1, nif_in_use, 0},
    {"close_fd", 1, nif_close_fd, 0},
    {"avail", 1, nif_avail, 0},
    {"read", 2, nif_read, 0},
    {"write", 2, nif_write, 0},
    {"write_all", 2, nif_write_all, 0},
    {"read_frames", 2, nif_read_frames, 0},
    {"write_frames", 2, nif_write_frames, 0},
    {"poke", 1, nif_poke, 0},
    {"fail", 2, nif_fail, 0},
    {"info", 1, nif_info, 0},
    {"slots", 1, nif_slots, 0},
    {"notify_when", 2, nif_notify_when, 0},
    {"uid", 0, nif_uid, 0},
    {"host_connect", 1, nif_host_connect, 0},
    {"host_send", 3, nif_host_send, 0},
    {"host_receive", 1, nif_host_receive, 0},
    {"host_close", 1, nif_host_close, 0},
    {"xen_grant", 3, nif_xen_grant, 0},
    {"xen_map", 2, nif_xen_map, 0},
    {"xen_still_mapped", 1, nif_xen_still_mapped, 0},
    {"xen_alloc_channel", 1, nif_xen_alloc_channel, 0},
    {"xen_bind_channel", 2, nif_xen_bind_channel, 0},
    {"xen_lock", 1, nif_xen_lock, 0},
    {"store_open", 1, nif_store_open, 0},
    {"xs_open", 1, nif_xs_open, 0},
    {"xs_avail", 1, nif_xs_avail, 0},
    {"xs_read", 1, nif_xs_read, 0},
    {"xs_write", 2, nif_xs_write, 0},
    {"held", 0, nif_held, 0},
};

ERL_NIF_INIT(pore_nif, functions, load, NULL, upgrade, NULL)
