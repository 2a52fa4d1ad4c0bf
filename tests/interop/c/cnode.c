/* A C node (ei of erl_interface) for the interop tests.
 *
 *   cnode ask   OWN_NAME COOKIE PEER           connects to PEER and uses its rex, echo and calc
 *   cnode serve OWN_NAME COOKIE                listens, publishes itself, answers one peer until {stop}
 *
 * Prints one line per step; the first that goes wrong is printed to stderr and ends it with 1.
 */
#include <arpa/inet.h>
#include <ei.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BIG (1 << 20)

static ei_cnode ec;

static void fail(const char *what)
{
    fprintf(stderr, "%s failed: erl_errno %d\n", what, erl_errno);
    exit(1);
}

static void check(int ok, const char *what)
{
    if (!ok)
        fail(what);
}

/* The next message that is not a tick; its term is left at *index of x. Returns the kind of message. */
static long receive(int fd, erlang_msg *msg, ei_x_buff *x, int *index)
{
    int version;

    for (;;) {
        int got = ei_xreceive_msg(fd, msg, x);
        if (got == ERL_TICK)
            continue;
        check(got == ERL_MSG, "ei_xreceive_msg");
        *index = 0;
        if (msg->msgtype == ERL_SEND || msg->msgtype == ERL_REG_SEND)
            check(ei_decode_version(x->buff, index, &version) == 0, "version");
        return msg->msgtype;
    }
}

static void expect_tuple(ei_x_buff *x, int *index, int arity)
{
    int n;
    check(ei_decode_tuple_header(x->buff, index, &n) == 0 && n == arity, "a tuple");
}

static void ask(const char *peer)
{
    ei_x_buff x, answer;
    erlang_msg msg;
    erlang_ref ref, back_ref;
    erlang_pid calc;
    int index, fd, size, type;
    long number;
    double root;
    char *big = malloc(BIG), *back = malloc(BIG), atom[MAXATOMLEN_UTF8];

    fd = ei_connect(&ec, (char *)peer);
    check(fd >= 0, "ei_connect");
    printf("connected\n");

    /* rpc */
    ei_x_new(&x);
    ei_x_new(&answer);
    ei_x_encode_list_header(&x, 1);
    ei_x_encode_double(&x, 16.0);
    ei_x_encode_empty_list(&x);
    check(ei_rpc(&ec, fd, "math", "sqrt", x.buff, x.index, &answer) >= 0, "ei_rpc");
    index = 0;
    check(ei_decode_double(answer.buff, &index, &root) == 0 && root == 4.0, "the root");
    printf("rpc 4.0\n");

    /* rpc of what is not there: {badrpc, ...} */
    x.index = 0;
    ei_x_encode_empty_list(&x);
    check(ei_rpc(&ec, fd, "nomod", "f", x.buff, x.index, &answer) >= 0, "ei_rpc of nomod");
    index = 0;
    expect_tuple(&answer, &index, 2);
    check(ei_decode_atom(answer.buff, &index, atom) == 0, "an atom");
    printf("rpc %s\n", atom);

    /* a message to a name and its answer, with a large binary and a reference */
    memset(big, 'x', BIG);
    check(ei_make_ref(&ec, &ref) == 0, "ei_make_ref");
    x.index = 0;
    ei_x_encode_version(&x);
    ei_x_encode_tuple_header(&x, 3);
    ei_x_encode_pid(&x, ei_self(&ec));
    ei_x_encode_ref(&x, &ref);
    ei_x_encode_binary(&x, big, BIG);
    check(ei_reg_send(&ec, fd, "echo", x.buff, x.index) == 0, "ei_reg_send");
    receive(fd, &msg, &answer, &index);
    expect_tuple(&answer, &index, 2);
    check(ei_decode_ref(answer.buff, &index, &back_ref) == 0 && ei_cmp_refs(&ref, &back_ref) == 0, "the reference");
    check(ei_get_type(answer.buff, &index, &type, &size) == 0 && size == BIG, "the size");
    check(ei_decode_binary(answer.buff, &index, back, NULL) == 0 && memcmp(big, back, BIG) == 0, "the binary");
    printf("echo %d\n", size);

    /* gen_server:call, by name, then by pid */
    for (int by_pid = 0; by_pid < 2; by_pid++) {
        x.index = 0;
        ei_x_encode_version(&x);
        ei_x_encode_tuple_header(&x, 3);
        ei_x_encode_atom(&x, "$gen_call");
        ei_x_encode_tuple_header(&x, 2);
        ei_x_encode_pid(&x, ei_self(&ec));
        ei_x_encode_ref(&x, &ref);
        if (by_pid) {
            ei_x_encode_tuple_header(&x, 3);
            ei_x_encode_atom(&x, "add");
            ei_x_encode_long(&x, 1);
            ei_x_encode_long(&x, 2);
            check(ei_send(fd, &calc, x.buff, x.index) == 0, "ei_send");
        } else {
            ei_x_encode_atom(&x, "pid");
            check(ei_reg_send(&ec, fd, "calc", x.buff, x.index) == 0, "ei_reg_send");
        }
        receive(fd, &msg, &answer, &index);
        expect_tuple(&answer, &index, 2);
        check(ei_decode_ref(answer.buff, &index, &back_ref) == 0 && ei_cmp_refs(&ref, &back_ref) == 0, "the tag");
        if (by_pid) {
            check(ei_decode_long(answer.buff, &index, &number) == 0, "a number");
            printf("call %ld\n", number);
        } else
            check(ei_decode_pid(answer.buff, &index, &calc) == 0, "a pid");
    }
    close(fd);
}

static void serve(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    ErlConnect peer;
    ei_x_buff x, out;
    erlang_msg msg;
    erlang_pid from;
    int listener, fd, epmd, index, arity, start, stopped = 0;
    char atom[MAXATOMLEN_UTF8];

    listener = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(bind(listener, (struct sockaddr *)&address, length) == 0 && listen(listener, 5) == 0, "listen");
    getsockname(listener, (struct sockaddr *)&address, &length);
    epmd = ei_publish(&ec, ntohs(address.sin_port));
    check(epmd >= 0, "ei_publish");
    printf("ready\n");
    fflush(stdout);

    fd = ei_accept(&ec, listener, &peer);
    check(fd >= 0, "ei_accept");
    printf("accepted %s\n", peer.nodename);
    ei_x_new(&x);
    ei_x_new(&out);
    while (!stopped) {
        long kind = receive(fd, &msg, &x, &index);
        if (kind != ERL_SEND && kind != ERL_REG_SEND) {
            printf("control %ld\n", kind);
            continue;
        }
        if (ei_decode_tuple_header(x.buff, &index, &arity) != 0)
            fail("a tuple");
        out.index = 0;
        ei_x_encode_version(&out);
        ei_x_encode_tuple_header(&out, 2);
        if (arity == 1) { /* {stop} */
            stopped = 1;
            continue;
        }
        start = index;
        if (ei_decode_atom(x.buff, &index, atom) == 0 && strcmp(atom, "$gen_call") == 0) {
            /* {'$gen_call', {Pid, Tag}, Request} is answered with {Tag, yes} to a ping, else {Tag, Request} */
            expect_tuple(&x, &index, 2);
            check(ei_decode_pid(x.buff, &index, &from) == 0, "a caller");
            start = index;
            ei_skip_term(x.buff, &index);
            ei_x_append_buf(&out, x.buff + start, index - start);
            start = index;
            if (strcmp(msg.toname, "net_kernel") == 0)
                ei_x_encode_atom(&out, "yes");
            else {
                ei_skip_term(x.buff, &index);
                ei_x_append_buf(&out, x.buff + start, index - start);
            }
        } else {
            /* {Pid, Ref, Payload} is answered with {Ref, Payload} */
            index = start;
            check(ei_decode_pid(x.buff, &index, &from) == 0, "a sender");
            start = index;
            ei_skip_term(x.buff, &index);
            ei_skip_term(x.buff, &index);
            ei_x_append_buf(&out, x.buff + start, index - start);
        }
        check(ei_send(fd, &from, out.buff, out.index) == 0, "ei_send");
    }
    close(fd);
    close(epmd);
    printf("stopped\n");
}

int main(int argc, char **argv)
{
    struct in_addr loopback = {.s_addr = htonl(INADDR_LOOPBACK)};
    char alive[MAXATOMLEN_UTF8];

    if (argc < 4)
        return 2;
    snprintf(alive, sizeof alive, "%s", argv[2]);
    *strchr(alive, '@') = 0;
    ei_init();
    check(ei_connect_xinit(&ec, "127.0.0.1", alive, argv[2], &loopback, argv[3], 7) >= 0, "ei_connect_xinit");
    if (strcmp(argv[1], "ask") == 0)
        ask(argv[4]);
    else
        serve();
    return 0;
}
