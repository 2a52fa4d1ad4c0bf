/* The control connection to the host service (docs/host-protocol.md): packets and descriptors; what they mean is
 * straw_local.erl's. One process, straw_backend, uses a connection. */
#define _GNU_SOURCE
#include "pore_nif.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

ErlNifResourceType *host_type;

struct nif_host {
    struct polled polled;
    ErlNifMutex *lock; /* of the connection */
    struct host *host; /* NULL: closed */
};

static bool host_end(ErlNifEnv *env, struct nif_host *host) {
    if (!polled_over(env, host, &host->polled)) return false;
    enif_mutex_lock(host->lock);
    host_close(host->host);
    host->host = NULL;
    enif_mutex_unlock(host->lock);
    return true;
}

static void host_free(ErlNifEnv *env, void *object) {
    struct nif_host *host = object;
    if (host->polled.fd >= 0) host_end(env, host);
    else host_close(host->host);
    if (host->lock) enif_mutex_destroy(host->lock);
    polled_free(&host->polled);
    atomic_fetch_sub(&held->hosts, 1);
}

static void host_owner_down(ErlNifEnv *env, void *object, ErlNifPid *pid, ErlNifMonitor *monitor) {
    (void)pid, (void)monitor;
    host_end(env, object);
}

static void host_stop(ErlNifEnv *env, void *object, ErlNifEvent event, int direct) {
    (void)env, (void)object, (void)direct;
    polled_stop(event);
}

/* uid() -> integer(): whose default folder it is. */
NIF(nif_uid) {
    (void)argc, (void)argv;
    return enif_make_uint(env, (unsigned)geteuid());
}

/* Our own host service, or root's. */
static bool is_trusted(uid_t uid) { return uid == 0 || uid == geteuid(); }

/* By the kernel's word: who listens. */
static int listener_check(int fd) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return -errno;
    return is_trusted(peer.uid) ? 0 : -EPERM;
}

/* Whoever can write into the host's folder could play the host. */
static int folder_check(const char *socket) {
    char folder[4096];
    const char *slash = strrchr(socket, '/');
    struct stat status;
    if (!slash || slash == socket || (size_t)(slash - socket) >= sizeof folder) return -EINVAL;
    memcpy(folder, socket, (size_t)(slash - socket));
    folder[slash - socket] = 0;
    if (lstat(folder, &status) < 0) return -errno;
    if (!S_ISDIR(status.st_mode)) return -ENOTDIR;
    return is_trusted(status.st_uid) && !(status.st_mode & 066) ? 0 : -EPERM;
}

/* host_connect(Path) -> {ok, Host} | {error, Errno}. Path is a binary without zero bytes: the socket in its folder. */
NIF(nif_host_connect) {
    char path[4096];
    ErlNifBinary name;
    struct nif_host *host;
    ERL_NIF_TERM term;
    int error;
    (void)argc;
    if (!enif_inspect_binary(env, argv[0], &name) || name.size >= sizeof path || memchr(name.data, 0, name.size))
        return enif_make_badarg(env);
    memcpy(path, name.data, name.size);
    path[name.size] = 0;
    if ((error = folder_check(path))) return error_errno(env, error);
    host = enif_alloc_resource(host_type, sizeof *host);
    if (!host) return error_errno(env, ENOMEM);
    *host = (struct nif_host){.polled = {.fd = -1}};
    atomic_fetch_add(&held->hosts, 1);
    term = enif_make_resource(env, host);
    host->lock = enif_mutex_create((char *)"pore_nif_host");
    error = host->lock ? host_connect(path, &host->host) : -ENOMEM;
    if (!error) error = listener_check(host_fd(host->host));
    if (!error) error = polled_init(&host->polled, host_fd(host->host));
    if (!error) error = polled_start(env, host, &host->polled, enif_make_tuple2(env, atom_irq, term));
    if (error && host->polled.fd >= 0) host_end(env, host);
    enif_release_resource(host);
    return error ? error_errno(env, error) : enif_make_tuple2(env, atom_ok, term);
}

/* host_send(Host, Op, [Arg]) -> {ok, Sequence} | {error, eagain}: {irq, Host} comes when there is room | {error, Errno}. */
NIF(nif_host_send) {
    struct nif_host *host;
    uint32_t *args;
    void *object;
    long count;
    int op, n;
    (void)argc;
    if (!enif_get_resource(env, argv[0], host_type, &object) || !enif_get_int(env, argv[1], &op) ||
        (count = get_words(env, argv[2], HOST_ARGS_MAX, &args)) < 0)
        return enif_make_badarg(env);
    host = object;
    enif_mutex_lock(host->lock);
    n = host->host ? host_send(host->host, op, args, (uint32_t)count) : -EPIPE;
    enif_mutex_unlock(host->lock);
    enif_free(args);
    if (n == -EAGAIN) polled_arm(env, host, &host->polled, enif_make_tuple2(env, atom_irq, argv[0]), true);
    return n < 0 ? error_errno(env, n) : enif_make_tuple2(env, atom_ok, enif_make_int(env, n));
}

static ERL_NIF_TERM thing(ErlNifEnv *env, const struct host_message *m) {
    if (m->fd < 0) return atom_none;
    if (m->op == HOST_GRANT) return memory_make(env, PORE_LOCAL, m->fd, m->count, NULL);
    if (m->op == HOST_MAP) return memory_make(env, PORE_LOCAL, m->fd, m->count - 1, m->args + 1);
    return channel_make(env, m->fd, 0);
}

/* host_receive(Host) -> {reply, Sequence, Op, 0 | -Errno's name, [Arg], Memory | Channel | none} | {event, Op, [Arg]}
 *                     | none: {irq, Host} comes with the next one | {error, Errno}: it is over. */
NIF(nif_host_receive) {
    static __thread struct host_message m;
    struct nif_host *host;
    ERL_NIF_TERM args;
    void *object;
    int n;
    (void)argc;
    if (!enif_get_resource(env, argv[0], host_type, &object)) return enif_make_badarg(env);
    host = object;
    enif_mutex_lock(host->lock);
    n = host->host ? host_receive(host->host, &m) : -EPIPE;
    enif_mutex_unlock(host->lock);
    if (n < 0) return error_errno(env, n);
    if (n == 0) {
        polled_arm(env, host, &host->polled, enif_make_tuple2(env, atom_irq, argv[0]), false);
        return atom_none;
    }
    args = enif_make_list(env, 0);
    for (uint32_t i = m.count; i > 0; i--) args = enif_make_list_cell(env, enif_make_uint(env, m.args[i - 1]), args);
    if (m.kind == HOST_EVENT) return enif_make_tuple3(env, atom(env, "event"), enif_make_int(env, m.op), args);
    return enif_make_tuple6(env, atom(env, "reply"), enif_make_uint(env, m.sequence), enif_make_int(env, m.op),
                            m.status ? error_errno(env, m.status) : atom_ok, args, thing(env, &m));
}

/* host_close(Host) -> true | false: it was closed before. */
NIF(nif_host_close) {
    void *object;
    (void)argc;
    if (!enif_get_resource(env, argv[0], host_type, &object)) return enif_make_badarg(env);
    return host_end(env, object) ? atom_true : atom_false;
}

int host_types(ErlNifEnv *env) {
    ErlNifResourceTypeInit init = {host_free, host_stop, host_owner_down, 0, NULL};
    host_type = enif_open_resource_type_x(env, "host", &init, RT_FLAGS, NULL);
    return !host_type;
}
