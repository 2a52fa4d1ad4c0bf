/* What a straw knows of processes and references, as bytes: it fills the holes of a small message without asking Erlang.
 *
 * It is a copy. Who may cross, under which number and for how long is straw_ids.erl's; whatever is not here (a process
 * that was never sent, the alias of a call) is left to it. No locks: straw_codec_nif.c has one.
 */
#ifndef STRAW_TRANSCODE_FILL_H
#define STRAW_TRANSCODE_FILL_H

#include "transcode.h"

#define FILL_PID_MAX 1040 /* bytes of a pid: a name of 1,020, four words */

struct fill_table;

/* Domains of both ends; seed: random, against a peer that chooses its ids. NULL: no memory. */
struct fill_table *fill_new(uint32_t ours, uint32_t peer, uint64_t seed);
void fill_free(struct fill_table *table);

/* Pids and references are external terms without their 131, as term_to_binary writes them. 0, -EINVAL or -ENOMEM. */

/* What pids of this VM look like; any of them. Their node and creation may change with it. */
int fill_node(struct fill_table *table, const uint8_t *pid, size_t size);
/* A process of this VM is number `id` of `domid`: ours, given out, or the proxy of one of the peer's. */
int fill_add(struct fill_table *table, const uint8_t *pid, size_t size, uint32_t domid, uint32_t id);
void fill_drop(struct fill_table *table, const uint8_t *pid, size_t size);
/* Node and creation of references (atom and u32) as they come out of or into this VM, and how they are to be written. */
int fill_ref(struct fill_table *table, bool out, const uint8_t *from, size_t from_size, const uint8_t *to, size_t to_size);
/* Has the peer's process been in a message since the last time that this was asked? */
bool fill_seen(struct fill_table *table, uint32_t id);

/* The message that transcode() has found, with all holes filled: its bytes. -ENOENT: not all is known. -EMSGSIZE. */
long fill(struct fill_table *table, const Transcode *t, uint8_t *to, size_t room);

#endif
