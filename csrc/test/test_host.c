/* Unit tests of the host's client: what it sends, what it takes, and every reply that it must refuse without a leak. */
#include "hostkit.h"

#include <sys/stat.h>
#include <sys/un.h>

static struct host_message m;

static void sends(void) {
    int peer;
    struct host *host = client(&peer);
    struct message got;
    uint32_t args[] = {1, 0}, many[1023] = {0};
    CHECK_IS(host_send(host, HOST_HELLO, args, 2), 1);
    CHECK_IS(recv(peer, &got, sizeof got, 0), 16);
    CHECK(got.op == 1 && got.status == 0 && got.sequence == 1 && got.args[0] == 1 && got.args[1] == 0);
    CHECK_IS(host_send(host, HOST_DOMAINS, NULL, 0), 2);
    CHECK_IS(recv(peer, &got, sizeof got, 0), 8);
    CHECK_IS(host_send(host, HOST_MAP, many, 1022), 3);
    CHECK_IS(recv(peer, &got, sizeof got, 0), 4096);
    CHECK_IS(host_send(host, HOST_MAP, many, 1023), -EINVAL);
    CHECK_IS(host_send(host, 0, NULL, 0), -EINVAL);
    CHECK_IS(host_send(host, 11, NULL, 0), -EINVAL);
    CHECK_IS(host_receive(host, &m), 0);
    int full = 0;
    for (int i = 0; i < 100000 && full >= 0; i++) full = host_send(host, HOST_MAP, many, 1022);
    CHECK_IS(full, -EAGAIN);
    close(peer);
    CHECK_IS(host_send(host, HOST_HELLO, args, 2), -EPIPE);
    CHECK_IS(host_receive(host, &m), -EPIPE);
    CHECK_IS(host_fd(host), -EPIPE);
    host_close(host);
}

static void takes(void) {
    int peer, ends[2], memory = sealed_memory(3);
    struct host *host = client(&peer);
    struct stat ours, theirs;
    channel_pair(ends);
    reply(peer, HOST_HELLO, 0, 1, (uint32_t[]){5}, 1, -1);
    CHECK_IS(host_receive(host, &m), 1);
    CHECK(m.kind == HOST_REPLY && m.op == HOST_HELLO && m.status == 0 && m.sequence == 1 && m.count == 1 && m.args[0] == 5);
    CHECK_IS(m.fd, -1);
    reply(peer, HOST_HELLO, -EBUSY, 2, NULL, 0, -1);
    CHECK_IS(host_receive(host, &m), 1);
    CHECK_IS(m.status, -EBUSY);
    reply(peer, HOST_GRANT, 0, 3, (uint32_t[]){8, 9, 10}, 3, memory);
    CHECK_IS(host_receive(host, &m), 1);
    CHECK(m.fd >= 0 && fstat(m.fd, &ours) == 0 && fstat(memory, &theirs) == 0 && ours.st_ino == theirs.st_ino);
    CHECK(fcntl(m.fd, F_GETFD) & FD_CLOEXEC);
    close(m.fd);
    reply(peer, HOST_MAP, 0, 4, (uint32_t[]){77, 2, 0, 1}, 4, memory);
    CHECK_IS(host_receive(host, &m), 1);
    CHECK_IS(m.args[0], 77);
    close(m.fd);
    reply(peer, HOST_EVTCHN_ALLOC, 0, 5, (uint32_t[]){1}, 1, ends[0]);
    CHECK_IS(host_receive(host, &m), 1);
    close(m.fd);
    reply(peer, HOST_XENSTORE, 0, 6, NULL, 0, ends[0]);
    CHECK_IS(host_receive(host, &m), 1);
    close(m.fd);
    reply(peer, HOST_DOMAINS, 0, 6, (uint32_t[]){2, 0, 5}, 3, -1);
    CHECK_IS(host_receive(host, &m), 1);
    struct message event = {0x4001, 0, 0, {8, 9}};
    post(peer, &event, 16, NULL, 0);
    CHECK_IS(host_receive(host, &m), 1);
    CHECK(m.kind == HOST_EVENT && m.op == HOST_UNMAPPED && m.count == 2 && m.args[1] == 9);
    CHECK_IS(host_receive(host, &m), 0);
    close(peer);
    CHECK_IS(host_receive(host, &m), -EPIPE);
    host_close(host);
    close(ends[0]), close(ends[1]), close(memory);
}

/* A fresh connection each: the packet is refused, the connection closed, and nothing is left open. */
static void refused(const struct message *packet, size_t size, const int *fds, int count) {
    int peer, before = open_descriptors();
    struct host *host = client(&peer);
    post(peer, packet, size, fds, count);
    CHECK_IS(host_receive(host, &m), -EPROTO);
    CHECK_IS(m.fd, -1);
    CHECK_IS(host_receive(host, &m), -EPIPE);
    CHECK_IS(host_send(host, HOST_HELLO, NULL, 0), -EPIPE);
    host_close(host);
    close(peer);
    CHECK_IS(open_descriptors(), before);
}

static void refuses(void) {
    int memory = sealed_memory(3), unsealed = memfd_create("test", MFD_ALLOW_SEALING), half = memfd_create("test", MFD_ALLOW_SEALING);
    int ends[2], datagrams[2], packets[2], pipes[2], many[40];
    CHECK(ftruncate(unsealed, 3 * WIRE_PAGE) == 0);
    CHECK(ftruncate(half, 3 * WIRE_PAGE) == 0);
    CHECK(fcntl(half, F_ADD_SEALS, F_SEAL_GROW) == 0);
    channel_pair(ends);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets) == 0);
    CHECK(pipe(pipes) == 0);
    for (int i = 0; i < 40; i++) many[i] = memory;
    struct message grant = {0x8000 | HOST_GRANT, 0, 1, {1, 2, 3}}, map = {0x8000 | HOST_MAP, 0, 1, {1, 0, 3}};
    struct message channel = {0x8000 | HOST_EVTCHN_BIND, 0, 1, {1}}, hello = {0x8000 | HOST_HELLO, 0, 1, {1}};
    struct message failed = {0x8000 | HOST_GRANT, -EPERM, 1, {0}}, positive = {0x8000 | HOST_HELLO, 1, 1, {1}};
    struct message request = {HOST_HELLO, 0, 1, {1}}, unknown = {0x8000 | 11, 0, 1, {0}}, zero = {0x8000, 0, 1, {0}};
    struct message event = {0x4003, 0, 0, {0}}, gone = {0x4002, 0, 0, {0}}, store = {0x8000 | HOST_XENSTORE, 0, 1, {0}};
    struct message domains = {0x8000 | HOST_DOMAINS, 0, 1, {3, 1}};
    refused(&hello, 7, NULL, 0);   /* no head */
    refused(&hello, 10, NULL, 0);  /* no word */
    refused(&hello, 8, NULL, 0);   /* no domid */
    refused(&request, 12, NULL, 0);
    refused(&unknown, 8, NULL, 0);
    refused(&zero, 8, NULL, 0);
    refused(&positive, 12, NULL, 0);
    refused(&event, 8, NULL, 0);
    refused(&gone, 8, NULL, 0);
    refused(&domains, 16, NULL, 0);
    refused(&hello, 12, &memory, 1); /* a descriptor that nobody asked for */
    refused(&failed, 8, &memory, 1);
    refused(&grant, 20, NULL, 0); /* none where one is due */
    refused(&grant, 20, many, 2);
    refused(&grant, 20, many, 8);
    refused(&grant, 20, many, 40); /* MSG_CTRUNC */
    refused(&grant, 16, &memory, 1); /* two refs, three pages */
    refused(&grant, 8, &memory, 1);
    refused(&grant, 20, &unsealed, 1);
    refused(&grant, 20, &half, 1);
    refused(&grant, 20, &ends[0], 1);
    refused(&map, 20, &memory, 1); /* page 3 of 3 */
    refused(&map, 12, &memory, 1);
    refused(&channel, 12, &memory, 1);
    refused(&channel, 12, &datagrams[0], 1);
    refused(&channel, 12, &pipes[0], 1);
    refused(&store, 8, &packets[0], 1);
    struct message long_one[2];
    memset(long_one, 0, sizeof long_one);
    long_one[0] = hello;
    refused(long_one, 5000, NULL, 0); /* MSG_TRUNC */
    for (int i = 0; i < 2; i++) close(ends[i]), close(datagrams[i]), close(packets[i]), close(pipes[i]);
    close(memory), close(unsealed), close(half);
}

static void connects(void) {
    struct host *host;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char path[100], too_long[200];
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), stream[2];
    const char *tmp = getenv("TMPDIR");
    memset(too_long, 'x', sizeof too_long);
    too_long[sizeof too_long - 1] = 0;
    snprintf(path, sizeof path, "%s/strawbridge-test-%d", tmp && strlen(tmp) < 60 ? tmp : "/tmp", (int)getpid());
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    CHECK_IS(host_connect(path, &host), -ENOENT);
    CHECK_IS(host_connect(too_long, &host), -ENAMETOOLONG);
    CHECK(bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK_IS(host_connect(path, &host), -ECONNREFUSED);
    CHECK(listen(listener, 4) == 0);
    CHECK_IS(host_connect(path, &host), 0);
    CHECK(fcntl(host_fd(host), F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(host_fd(host), F_GETFD) & FD_CLOEXEC);
    host_close(host);
    close(listener);
    unlink(path);
    channel_pair(stream);
    CHECK_IS(host_from_fd(stream[0], &host), -EPROTOTYPE);
    CHECK_IS(host_from_fd(-1, &host), -EBADF);
    close(stream[0]), close(stream[1]);
    host_close(NULL);
}

int main(void) {
    int before;
    alarm(60);
    open_descriptors();
    before = open_descriptors();
    sends();
    takes();
    refuses();
    connects();
    CHECK_IS(open_descriptors(), before);
    puts("ok");
    return 0;
}
