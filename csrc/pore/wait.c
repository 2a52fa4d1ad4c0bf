/* Waiting: spin as far as that pays, offer the peer our cpu where that does, then sleep until the peer pokes.
 *
 * Spinning saves two wake-ups of the kernel when the peer runs on another cpu, and costs its whole time when the peer needs
 * ours. Nobody can know beforehand: each side of a pore learns. While spinning is met it goes on; after a few misses in a row
 * it rests for some waits, twice as many after each failed trial. A trial spins longer than a wake-up takes, for some waits:
 * a peer that still sleeps between messages is met too, until its own trial comes and both are fast. One that never spins,
 * as the BEAM, fails the trial: to spin for as long as it takes to wake it saves one wake-up and costs two.
 *
 * After a miss the cpu is offered to others: a peer that needs it works and has answered when it is ours again, and both have
 * changed places without a poke. While that is met it comes first, before any spinning. But a stranger who takes the cpu
 * keeps it a thousand times longer than a poke takes: who got it back late, does not offer it for long.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>
#include <time.h>

#include "core.h"

enum {
    SPIN_NS = 25000,        /* about what half a wake-up costs */
    TRIAL_NS = 120000,      /* more than a wake-up of a sleeping cpu takes */
    MISSES_MAX = 3,
    TRIALS = 128,           /* long ones in a row */
    REST_FIRST = 64,
    REST_MAX = 4096,
    LOOKS_PER_CLOCK = 64
};

enum {
    OFFERS = 2,             /* a peer on our cpu has run after so many */
    LATE_NS = 300000,       /* a cpu that comes back later was a stranger's, or the peer works so long that a poke is nothing */
    OFFERS_PER_LATE = 2000, /* so many have to be met for each that came back late */
    LATE_REST_FIRST = 1024,
    LATE_REST_MAX = 1 << 20
};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ---- learning ---- */

/* Nanoseconds to spin this time; 0: don't. */
static int64_t spin_budget(struct spin *spin, int spin_us) {
    if (!spin_us) return 0;
    if (spin_us > 0) return (int64_t)spin_us * 1000;
    if (!spin->rest) return spin->trial ? TRIAL_NS : SPIN_NS;
    if (--spin->rest) return 0;
    spin->trial = TRIALS;
    spin->misses = MISSES_MAX - 1; /* the first miss ends it */
    return TRIAL_NS;
}

/* slow: met, but no sooner than by a peer that was woken. */
static void spin_learn(struct spin *spin, bool met, bool slow) {
    spin->spins++;
    spin->hits += met;
    if (met && !slow) {
        spin->misses = spin->interval = spin->trial = 0;
        return;
    }
    if (met && spin->trial > 1) {
        spin->trial--;
        return;
    }
    if (!met && ++spin->misses < MISSES_MAX) return;
    spin->interval = !spin->interval ? REST_FIRST : spin->interval < REST_MAX ? spin->interval * 2 : REST_MAX;
    spin->rest = spin->interval;
    spin->misses = spin->trial = 0;
}

/* Is the cpu to be offered this time? */
static bool offer_due(struct offer *offer, int spin_us) {
    if (spin_us >= 0) return false;
    if (!offer->rest) return true;
    offer->rest--;
    return false;
}

static void offer_learn(struct offer *offer, bool met, bool late) {
    offer->first = met;
    if (!late) {
        offer->on_time += met;
        return;
    }
    if (offer->on_time >= OFFERS_PER_LATE) offer->interval = 0;
    offer->interval = !offer->interval ? LATE_REST_FIRST : offer->interval < LATE_REST_MAX ? offer->interval * 2 : LATE_REST_MAX;
    offer->rest = offer->interval;
    offer->on_time = 0;
    offer->first = false;
}

/* ---- pokes ---- */

/* Pokes were taken; event.lock is held. Everybody who sleeps looks again. */
static void drained_locked(struct pore *pore, bool some) {
    pore->event.irqs += some;
    pore->event.drains++;
    pthread_cond_broadcast(&pore->event.changed);
}

/* Takes pending pokes; event.lock is held. */
static int drain_locked(struct pore *pore) {
    int some = 0, gone = 0;
    for (int i = 0; i < pore->channel_count; i++) {
        int result = pore->backend->drain(&pore->channels[i]);
        if (result < 0) gone = 1;
        else some |= result;
    }
    drained_locked(pore, some);
    return gone ? -EPIPE : some;
}

/* A thread that polls would sleep on if another took its poke: then it is left to that one, and the descriptor readable. */
int event_drain(struct pore *pore, pore_id id) {
    int result;
    pthread_mutex_lock(&pore->event.lock);
    result = pore->event.id != id ? -EBADF : pore->event.polling ? 0 : drain_locked(pore);
    pthread_mutex_unlock(&pore->event.lock);
    if (result == -EPIPE) pore_fail_with(pore, id, PORE_PEER_GONE);
    return result;
}

/* The thread is inside: until waiter_leave the pore stays mapped and its descriptor open. */
static int waiter_enter(struct pore *pore, pore_id id, uint32_t *drains) {
    int error = 0;
    pthread_mutex_lock(&pore->event.lock);
    if (pore->event.id == id) pore->event.waiters++;
    else error = -EBADF;
    *drains = pore->event.drains;
    pthread_mutex_unlock(&pore->event.lock);
    return error;
}

static void waiter_leave(struct pore *pore) {
    pthread_mutex_lock(&pore->event.lock);
    if (!--pore->event.waiters) pthread_cond_broadcast(&pore->event.changed);
    pthread_mutex_unlock(&pore->event.lock);
}

enum { SLEEP_POLLED = 2 };

/* SLEEP_POLLED, 0: timeout, -errno. */
static int poll_until(int fd, int64_t deadline) {
    struct pollfd one = {.fd = fd, .events = POLLIN};
    struct timespec left = {0, 0};
    int result;
    if (deadline >= 0) {
        int64_t rest = deadline - now_ns();
        if (rest > 0) left = (struct timespec){rest / 1000000000, rest % 1000000000};
    }
    result = ppoll(&one, 1, deadline < 0 ? NULL : &left, NULL);
    return result < 0 ? -errno : result ? SLEEP_POLLED : 0;
}

/* Sleeps until somebody has drained since `drains`, or the deadline: 1 look again, 0 timeout, -errno. One thread polls for
 * all that sleep here: a poke that it takes may be meant for another, so all look again. */
static int sleep_until(struct pore *pore, pore_id id, uint32_t *drains, int64_t deadline) {
    struct event *event = &pore->event;
    struct timespec at = {deadline / 1000000000, deadline % 1000000000};
    int result = 1;
    bool gone = false;
    pthread_mutex_lock(&event->lock);
    if (event->id == id && event->drains == *drains && event->polling) {
        result = deadline < 0 ? pthread_cond_wait(&event->changed, &event->lock)
                              : pthread_cond_timedwait(&event->changed, &event->lock, &at);
        result = result == ETIMEDOUT ? 0 : 1;
    } else if (event->id == id && event->drains == *drains) {
        event->polling = 1;
        pthread_mutex_unlock(&event->lock);
        if (deadline < 0 && pore->channel_count == 1) {
            result = pore->backend->sleep(&pore->channels[0]); /* takes the pokes too */
        } else {
            result = poll_until(pore->fd, deadline);
        }
        pthread_mutex_lock(&event->lock);
        event->polling = 0;
        if (result == SLEEP_POLLED) result = drain_locked(pore) == -EPIPE ? -EPIPE : 1;
        else drained_locked(pore, result == 1);
        gone = result == -EPIPE;
        if (gone) result = 1; /* to be found by looking: something may be left to read */
    }
    *drains = event->drains;
    pthread_mutex_unlock(&event->lock);
    if (gone) pore_fail_with(pore, id, PORE_PEER_GONE);
    return result;
}

/* ---- looking ---- */

/* What a spinner looks at without a lock. */
struct view {
    ring_word *theirs;
    uint32_t seen, need;
    int64_t budget; /* how long to spin */
    bool offer;     /* the cpu, */
    bool first;     /* before spinning */
    bool late;      /* an offered cpu came back so */
    bool trial;     /* the spinning is one */
    bool slow;      /* in a trial: longer than we would spin otherwise */
};
enum look { LOOK_FIRST, LOOK_OFFERED, LOOK_SPINNING, LOOK_LAST };

/* Is there something to be done before sleeping? */
static bool hopeful(const struct view *view) { return view->budget || view->offer; }

/* Learns from what was not met; side->lock is held. */
static void give_up(struct side *side, const struct view *view) {
    if (view->budget) spin_learn(&side->spin, false, false);
    if (view->offer) offer_learn(&side->spin.offer, false, view->late);
}

/* 1: there, 0: not yet, -errno. The first look says how long to spin, those while spinning learn of its success, the last one
 * of its failure, and announces that we wait. */
static int look(struct pore *pore, pore_id id, int what, uint32_t slots, enum look how, struct view *view) {
    struct side *side = what == PORE_OUT ? &pore->out : &pore->in;
    struct ring *r = &side->ring;
    uint32_t need;
    int result;
    pthread_mutex_lock(&side->lock);
    if (how == LOOK_FIRST) {
        need = what == PORE_MORE ? r->known + 1 : what == PORE_IN && !slots ? 1 : slots;
        *view = (struct view){.theirs = r->theirs, .need = need};
    }
    need = view->need;
    if (side->id != id) {
        result = -EBADF;
    } else if (side->reason == PORE_CORRUPT || (side->reason && what == PORE_OUT)) {
        result = reason_error(side->reason);
    } else if (need > r->most) {
        result = -EINVAL;
    } else {
        result = r->known < need ? ring_look(r) : 0;
        if (!result && how == LOOK_LAST && r->known < need) result = ring_announce(r, need);
        if (!result && r->known >= need) result = 1;
        else if (!result && side->reason) result = reason_error(side->reason);
        view->seen = r->seen;
        if (how == LOOK_FIRST && !result) {
            view->budget = spin_budget(&side->spin, pore->spin_us);
            view->trial = view->budget && side->spin.trial;
            view->offer = offer_due(&side->spin.offer, pore->spin_us);
            view->first = view->offer && side->spin.offer.first;
        }
        if (how == LOOK_OFFERED && result == 1) offer_learn(&side->spin.offer, true, view->late);
        if (how == LOOK_SPINNING && result == 1) spin_learn(&side->spin, true, view->slow);
        if (how == LOOK_LAST) {
            give_up(side, view);
            side->spin.sleeps += !result;
            view->budget = 0;
            view->offer = false;
        }
    }
    pthread_mutex_unlock(&side->lock);
    if (result == -EBADMSG) pore_fail_with(pore, id, PORE_CORRUPT);
    return result;
}

static int glance(struct pore *pore, pore_id id, int what, uint32_t slots, enum look how, struct view *view) {
    return ring_load_index(view->theirs) == view->seen ? 0 : look(pore, id, what, slots, how, view);
}

/* As far as the budget goes, without asking for the time at first. */
static int spin(struct pore *pore, pore_id id, int what, uint32_t slots, struct view *view) {
    int64_t start = 0, now = 0;
    int result = 0;
    do {
        view->slow = view->trial && now - start > SPIN_NS;
        for (int i = 0; i < LOOKS_PER_CLOCK && !result; i++) {
            result = glance(pore, id, what, slots, LOOK_SPINNING, view);
            relax();
        }
        now = now_ns();
        if (!start) start = now;
    } while (!result && now - start < view->budget);
    return result;
}

static int offer(struct pore *pore, pore_id id, int what, uint32_t slots, struct view *view) {
    int64_t start = now_ns();
    int result = 0;
    for (int i = 0; i < OFFERS && !result && !view->late; i++) {
        sched_yield();
        view->late = now_ns() - start > LATE_NS;
        result = glance(pore, id, what, slots, LOOK_OFFERED, view);
    }
    return result;
}

/* All that can be done before sleeping, without a lock: others may read and write meanwhile. The caller is a waiter, so the
 * memory stays. */
static int hope(struct pore *pore, pore_id id, int what, uint32_t slots, struct view *view) {
    int result = 0;
    if (view->first) result = offer(pore, id, what, slots, view);
    if (!result && view->budget) result = spin(pore, id, what, slots, view);
    if (!result && view->offer && !view->first) result = offer(pore, id, what, slots, view);
    return result;
}

static int check(struct pore *pore, int what) {
    if (!pore) return -EBADF;
    return what == PORE_IN || what == PORE_OUT || what == PORE_MORE ? 0 : -EINVAL;
}

int pore_spin(struct pore_table *table, pore_id id, int what, uint32_t slots) {
    struct pore *pore = table_find(table, id);
    struct view view;
    uint32_t drains;
    int result = check(pore, what);
    if (!result) result = look(pore, id, what, slots, LOOK_FIRST, &view);
    if (result || !hopeful(&view)) return result;
    if ((result = waiter_enter(pore, id, &drains))) return result;
    result = hope(pore, id, what, slots, &view);
    if (!result) {
        struct side *side = what == PORE_OUT ? &pore->out : &pore->in;
        pthread_mutex_lock(&side->lock);
        give_up(side, &view);
        pthread_mutex_unlock(&side->lock);
    }
    waiter_leave(pore);
    return result;
}

int pore_wait(struct pore_table *table, pore_id id, int what, uint32_t slots, int64_t timeout_us) {
    struct pore *pore = table_find(table, id);
    int64_t deadline = -1;
    struct view view;
    uint32_t drains;
    int result = check(pore, what), slept = 1;
    if (!result) result = look(pore, id, what, slots, LOOK_FIRST, &view);
    if (result) return result;
    if (timeout_us >= 0) {
        int64_t now = now_ns();
        deadline = timeout_us > (INT64_MAX - now) / 1000 ? INT64_MAX : now + timeout_us * 1000;
        if (deadline - now < view.budget) view.budget = 0;
        if (!timeout_us) view.offer = view.first = false;
    }
    if ((result = waiter_enter(pore, id, &drains))) return result;
    if (hopeful(&view)) result = hope(pore, id, what, slots, &view);
    /* After the deadline one more look. */
    while (!result) {
        result = look(pore, id, what, slots, LOOK_LAST, &view);
        if (result || !slept) break;
        slept = sleep_until(pore, id, &drains, deadline);
        if (slept < 0) result = slept;
    }
    waiter_leave(pore);
    return result;
}

long pore_drain_frames(struct pore_inbox *inbox) {
    struct pore *pore = table_find(inbox->table, inbox->id);
    int error = pore ? event_drain(pore, inbox->id) : -EBADF;
    return error == -EBADF ? error : take_frames(inbox, inbox->flags);
}

long pore_wait_frames(struct pore_inbox *inbox) {
    int64_t end = 0, left = inbox->timeout_us;
    int last = 0;
    long n;
    if (left > 0) end = left > INT64_MAX / 2000 ? INT64_MAX : now_ns() + left * 1000;
    for (;;) {
        n = take_frames(inbox, inbox->flags | PORE_QUIET);
        if (n || last) return n;
        n = pore_wait(inbox->table, inbox->id, PORE_MORE, 0, left);
        if (n < 0) return n;
        last = !n;
        if (left > 0) {
            left = (end - now_ns()) / 1000;
            if (left < 0) left = 0;
        }
    }
}
