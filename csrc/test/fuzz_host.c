/* A host gone mad: random packets with random descriptors. No crash, no message that breaks its rules, no descriptor left.
 *
 * usage: fuzz_host [seed [rounds]]
 */
#include "hostkit.h"

int main(int count, char **arguments) {
    uint64_t seed = (count > 1 ? strtoull(arguments[1], NULL, 10) : 1) * 2654435761u + 88172645463325252ull;
    long rounds = count > 2 ? strtol(arguments[2], NULL, 10) : 20000;
    int pool[5], ends[2], pipes[2], peer = -1, before, messages = 0;
    struct host *host = NULL;
    struct host_message m;
    pool[0] = sealed_memory(3);
    pool[1] = memfd_create("test", MFD_ALLOW_SEALING);
    channel_pair(ends);
    CHECK(pipe(pipes) == 0);
    pool[2] = ends[0], pool[3] = pipes[0], pool[4] = sealed_memory(1);
    open_descriptors();
    before = open_descriptors();
    for (long i = 0; i < rounds; i++) {
        struct message packet;
        int fds[10], with = (int)(random_next(&seed) % 3), result;
        uint32_t args = (uint32_t)(random_next(&seed) % 5);
        size_t size = 8 + 4 * args;
        alarm(20);
        if (!host) host = client(&peer);
        memset(&packet, 0, sizeof packet);
        packet.op = (uint16_t)((random_next(&seed) % 4 ? 0x8000 : 0x4000) | random_next(&seed) % 12);
        if (random_next(&seed) % 10 == 0) packet.op = (uint16_t)random_next(&seed);
        if (random_next(&seed) % 4 == 0) packet.status = (int16_t)random_next(&seed);
        for (uint32_t a = 0; a < args; a++) packet.args[a] = (uint32_t)(random_next(&seed) % (random_next(&seed) % 4 ? 4 : 1ull << 32));
        if (random_next(&seed) % 20 == 0) size = random_next(&seed) % 4096 + 1;
        if (random_next(&seed) % 20 == 0) with = (int)(random_next(&seed) % 10);
        for (int f = 0; f < with; f++) fds[f] = pool[random_next(&seed) % 5];
        post(peer, &packet, size, fds, with);
        result = host_receive(host, &m);
        CHECK(result == 1 || result == -EPROTO);
        if (result == 1) {
            messages++;
            CHECK((m.kind == HOST_REPLY || m.kind == HOST_EVENT) && m.count <= 1022 && m.status <= 0);
            CHECK(m.kind == HOST_EVENT ? m.fd < 0 : m.status < 0 ? m.fd < 0 : 1);
            if (m.fd >= 0) CHECK(close(m.fd) == 0);
        } else {
            CHECK_IS(m.fd, -1);
            host_close(host);
            close(peer);
            host = NULL;
        }
        if (i % 1000 == 0) CHECK_IS(open_descriptors(), before + (host ? 2 : 0));
    }
    CHECK(messages > 0);
    if (host) host_close(host), close(peer);
    CHECK_IS(open_descriptors(), before);
    puts("ok");
    return 0;
}
