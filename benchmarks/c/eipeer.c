/* The C node (ei) of the distribution benchmark: echo, calc and sink by hand, one connection at a time.
 *
 * eipeer ALIVENAME HOST COOKIE; ERL_EPMD_PORT as usual. Prints "ready". It copies terms it need not understand.
 */
#include <arpa/inet.h>
#include <ei.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long long casts;

/* Skip one term and give its extent. */
static int span(const ei_x_buff *in, int *index, int *from)
{
    *from = *index;
    return ei_skip_term(in->buff, index);
}

/* Fill out with the answer to the message in `in`; 1 when there is one to send to *to. */
static int answer(ei_x_buff *in, ei_x_buff *out, erlang_pid *to)
{
    int index = 0, arity, version, from, size;
    long long a, b;
    char atom[MAXATOMLEN_UTF8];

    if (ei_decode_version(in->buff, &index, &version) || ei_decode_tuple_header(in->buff, &index, &arity))
        return 0;
    out->index = 0;
    ei_x_encode_version(out);
    ei_x_encode_tuple_header(out, 2);
    if (arity == 3 && ei_decode_pid(in->buff, &index, to) == 0) { /* {From, Ref, Payload} */
        if (span(in, &index, &from) || span(in, &index, &size))
            return 0;
        ei_x_append_buf(out, in->buff + from, index - from);
        return 1;
    }
    if (ei_decode_atom(in->buff, &index, atom))
        return 0;
    if (strcmp(atom, "$gen_cast") == 0) {
        casts++;
        return 0;
    }
    if (arity != 3 || strcmp(atom, "$gen_call") || ei_decode_tuple_header(in->buff, &index, &arity) ||
        ei_decode_pid(in->buff, &index, to) || span(in, &index, &from))
        return 0;
    ei_x_append_buf(out, in->buff + from, index - from);
    if (ei_decode_tuple_header(in->buff, &index, &arity)) { /* count */
        ei_x_encode_longlong(out, casts);
        casts = 0;
    } else if (arity == 3) { /* {add, A, B} */
        if (ei_decode_atom(in->buff, &index, atom) || ei_decode_longlong(in->buff, &index, &a) ||
            ei_decode_longlong(in->buff, &index, &b))
            return 0;
        ei_x_encode_longlong(out, a + b);
    } else { /* {echo, Term} */
        if (ei_decode_atom(in->buff, &index, atom) || span(in, &index, &from))
            return 0;
        ei_x_append_buf(out, in->buff + from, index - from);
    }
    return 1;
}

static void serve(int fd, ei_x_buff *in, ei_x_buff *out)
{
    erlang_msg message;
    erlang_pid to;

    for (;;) {
        in->index = 0;
        int got = ei_xreceive_msg(fd, &message, in);
        if (got == ERL_ERROR)
            return;
        if (got == ERL_MSG && (message.msgtype == ERL_SEND || message.msgtype == ERL_REG_SEND) &&
            answer(in, out, &to) && ei_send(fd, &to, out->buff, out->index) < 0)
            return;
    }
}

int main(int argc, char **argv)
{
    ei_cnode node;
    ErlConnect peer;
    ei_x_buff in, out;
    struct in_addr address = {htonl(INADDR_LOOPBACK)};
    char full[MAXNODELEN];
    int port = 0, listener, fd;

    if (argc != 4 || ei_init())
        return 2;
    snprintf(full, sizeof full, "%s@%s", argv[1], argv[2]);
    if (ei_connect_xinit(&node, argv[2], argv[1], full, (Erl_IpAddr)&address, argv[3], 1) < 0)
        return 1;
    listener = ei_listen(&node, &port, 16);
    if (listener < 0 || ei_publish(&node, port) < 0)
        return 1;
    ei_x_new(&in);
    ei_x_new(&out);
    puts("ready");
    fflush(stdout);
    for (;;) {
        fd = ei_accept(&node, listener, &peer);
        if (fd >= 0) {
            serve(fd, &in, &out);
            ei_close_connection(fd);
        }
    }
}
