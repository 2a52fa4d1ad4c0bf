/* A stream to the store that looks like XenStore's ring (pore_xs): 1024 bytes each way, avail, read, write, {irq, Xs}.
 * The stream is a socket of the host service's, or Xen's /dev/xen/xenbus. */
#define _GNU_SOURCE
#include "pore_nif.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

ErlNifResourceType *stream_type;

struct stream {
    struct polled polled;
    ErlNifMutex *lock; /* of all below */
    int fd;
    bool ended; /* the store has hung up */
    size_t in_size, out_size;
    uint8_t in[XS_RING], out[XS_RING];
};

bool stream_end(ErlNifEnv *env, void *object) {
    struct stream *s = object;
    if (!polled_over(env, s, &s->polled)) return false;
    enif_mutex_lock(s->lock);
    s->fd = close_fd(s->fd) - 1;
    enif_mutex_unlock(s->lock);
    return true;
}

static void stream_free(ErlNifEnv *env, void *object) {
    struct stream *s = object;
    if (s->polled.fd >= 0) stream_end(env, s);
    else close_fd(s->fd);
    if (s->lock) enif_mutex_destroy(s->lock);
    polled_free(&s->polled);
    atomic_fetch_sub(&held.streams, 1);
}

static void stream_owner_down(ErlNifEnv *env, void *object, ErlNifPid *pid, ErlNifMonitor *monitor) {
    (void)pid, (void)monitor;
    stream_end(env, object);
}

static void stream_stop(ErlNifEnv *env, void *object, ErlNifEvent event, int direct) {
    (void)env, (void)object, (void)direct;
    polled_stop(event);
}

/* Sends what is waiting, takes what has come. write() and read(), as xenbus is no socket; the emulator ignores SIGPIPE. */
static void flow(struct stream *s) {
    ssize_t n;
    while (s->out_size) {
        n = write(s->fd, s->out, s->out_size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) s->ended = true;
        if (n <= 0) break;
        s->out_size -= (size_t)n;
        memmove(s->out, s->out + n, s->out_size);
    }
    while (s->in_size < XS_RING) {
        n = read(s->fd, s->in + s->in_size, XS_RING - s->in_size);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) s->ended = true;
        if (n <= 0) break;
        s->in_size += (size_t)n;
    }
}

static struct stream *get(ErlNifEnv *env, ERL_NIF_TERM term) {
    void *object;
    return enif_get_resource(env, term, stream_type, &object) ? object : NULL;
}

/* xs_open(Channel) -> {ok, Xs} | {error, Errno}: takes the descriptor. */
NIF(nif_xs_open) {
    struct stream *s;
    ERL_NIF_TERM term;
    void *object;
    int error, flags;
    (void)argc;
    if (!enif_get_resource(env, argv[0], channel_type, &object)) return enif_make_badarg(env);
    if (!(s = enif_alloc_resource(stream_type, sizeof *s))) return error_errno(env, ENOMEM);
    memset(s, 0, sizeof *s);
    s->polled.fd = -1;
    atomic_fetch_add(&held.streams, 1);
    term = enif_make_resource(env, s);
    s->fd = atomic_exchange(&((struct channel_end *)object)->fd, -1);
    s->lock = enif_mutex_create((char *)"pore_nif_stream");
    flags = s->fd < 0 ? -1 : fcntl(s->fd, F_GETFL);
    if (!s->lock) error = -ENOMEM;
    else if (flags < 0 || fcntl(s->fd, F_SETFL, flags | O_NONBLOCK) < 0) error = -EBADF;
    else error = polled_init(&s->polled, s->fd);
    if (!error) error = polled_start(env, s, &s->polled, enif_make_tuple2(env, atom_irq, term));
    if (error && s->polled.fd >= 0) stream_end(env, s);
    enif_release_resource(s);
    return error ? error_errno(env, error) : enif_make_tuple2(env, atom_ok, term);
}

/* xs_avail(Xs) -> {Room, Unread} | {error, host_down} | badarg: closed. */
NIF(nif_xs_avail) {
    struct stream *s = get(env, argv[0]);
    ERL_NIF_TERM message, result;
    bool more_out, more_in;
    (void)argc;
    if (!s) return enif_make_badarg(env);
    enif_mutex_lock(s->lock);
    if (s->fd < 0) {
        enif_mutex_unlock(s->lock);
        return enif_make_badarg(env);
    }
    if (!s->ended) flow(s);
    more_out = s->out_size && !s->ended;
    more_in = s->in_size < XS_RING && !s->ended;
    if (s->ended && !s->in_size) {
        result = error_tuple(env, "host_down");
    } else {
        result = enif_make_tuple2(env, enif_make_uint64(env, s->ended ? 0 : XS_RING - s->out_size),
                                  enif_make_uint64(env, s->in_size));
    }
    enif_mutex_unlock(s->lock);
    message = enif_make_tuple2(env, atom_irq, argv[0]);
    if (more_out) polled_arm(env, s, &s->polled, message, true);
    if (more_in) polled_arm(env, s, &s->polled, message, false);
    return result;
}

/* xs_read(Xs) -> Binary: all that xs_avail has seen. */
NIF(nif_xs_read) {
    struct stream *s = get(env, argv[0]);
    ERL_NIF_TERM term;
    bool open;
    (void)argc;
    if (!s) return enif_make_badarg(env);
    enif_mutex_lock(s->lock);
    if ((open = s->fd >= 0)) {
        memcpy(enif_make_new_binary(env, s->in_size, &term), s->in, s->in_size);
        s->in_size = 0;
    }
    enif_mutex_unlock(s->lock);
    return open ? term : enif_make_badarg(env);
}

/* xs_write(Xs, Binary) -> ok | badarg: there is not so much room. Sent at once as far as it goes; xs_avail sends the rest. */
NIF(nif_xs_write) {
    struct stream *s = get(env, argv[0]);
    ErlNifBinary from;
    bool fits;
    (void)argc;
    if (!s || !enif_inspect_binary(env, argv[1], &from)) return enif_make_badarg(env);
    enif_mutex_lock(s->lock);
    fits = s->fd >= 0 && from.size <= XS_RING - s->out_size;
    if (fits) {
        memcpy(s->out + s->out_size, from.data, from.size);
        s->out_size += from.size;
    }
    enif_mutex_unlock(s->lock);
    return fits ? atom_ok : enif_make_badarg(env);
}

int stream_types(ErlNifEnv *env) {
    ErlNifResourceTypeInit init = {stream_free, stream_stop, stream_owner_down, 0, NULL};
    stream_type = enif_open_resource_type_x(env, "stream", &init, ERL_NIF_RT_CREATE, NULL);
    return !stream_type;
}
