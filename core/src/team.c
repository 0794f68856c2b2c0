/* team: threads that load and run a network together. They are started once, wait for work, and meet after each
 * operation of a run; the caller's thread is one of them. The only part of the core that needs an operating system. */
#if defined(__linux__)
#define _GNU_SOURCE /* for what a thread may run on */
#elif defined(__unix__) || defined(__APPLE__)
#define _POSIX_C_SOURCE 200809L
#endif
#include "engine.h"

#if __STDC_HOSTED__ && defined(__GNUC__) && (defined(__unix__) || defined(__APPLE__)) && !defined(__wasm__)
#include <pthread.h>
#include <sched.h>

enum { MOST_THREADS = 64, SPINS = 200 };

typedef struct {
    smidgen_team *team;
    uint32_t number;
    pthread_t thread;
} member;

struct smidgen_team {
    pthread_mutex_t lock;
    pthread_cond_t call;
    smidgen_task *task; /* that is done; 0 tells the threads to end */
    void *given;
    uint32_t round; /* rises with each task */
    uint32_t threads;
#if defined(__linux__)
    cpu_set_t allowed; /* to all of them together */
    int here;          /* the caller's processor when that was last looked at */
#endif
    uint8_t gap[64]; /* what follows is written by all */
    uint32_t arrived, meeting;
    member members[];
};

static void pause(uint32_t *turns) {
    if (++*turns > SPINS)
        sched_yield(); /* who is waited for may need this processor */
#if defined(__x86_64__) || defined(__i386__)
    else
        __builtin_ia32_pause();
#endif
}

static void meet(smidgen_team *team) {
    const uint32_t meeting = __atomic_load_n(&team->meeting, __ATOMIC_ACQUIRE);
    uint32_t turns = 0;
    if (__atomic_add_fetch(&team->arrived, 1, __ATOMIC_ACQ_REL) == team->threads) {
        __atomic_store_n(&team->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&team->meeting, meeting + 1, __ATOMIC_RELEASE);
        return;
    }
    while (__atomic_load_n(&team->meeting, __ATOMIC_ACQUIRE) == meeting)
        pause(&turns);
}

static void run(smidgen_team *team, void *given, uint32_t number) {
    smidgen_network *network = given;
    for (uint32_t i = 0; i < network->operation_count; i++) {
        if (i)
            meet(team);
        smidgen_run_operation(network, &network->operations[i], number, team->threads);
    }
}

static void *wait_for_work(void *given) {
    const member *m = given;
    smidgen_team *team = m->team;
    uint32_t round = 0;
    for (;;) {
        smidgen_task *task;
        void *given_task;
        uint32_t turns = 0;
        while (__atomic_load_n(&team->round, __ATOMIC_ACQUIRE) == round && turns < SPINS)
            pause(&turns);
        pthread_mutex_lock(&team->lock);
        while (team->round == round)
            pthread_cond_wait(&team->call, &team->lock);
        round = team->round;
        task = team->task;
        given_task = team->given;
        pthread_mutex_unlock(&team->lock);
        if (!task)
            return 0;
        task(team, given_task, m->number);
        meet(team);
    }
}

#if defined(__linux__)
/* Keeps the others off the caller's processor. A thread that has slept is woken where it is called from, and would take
 * turns with the caller until the system notices, which takes longer than a run. */
static void step_aside(smidgen_team *team) {
    const int here = sched_getcpu();
    cpu_set_t others = team->allowed;
    if (here < 0 || here == team->here)
        return;
    CPU_CLR(here, &others);
    if (CPU_COUNT(&others) + 1 < (int)team->threads)
        return;
    for (uint32_t i = 1; i < team->threads; i++)
        pthread_setaffinity_np(team->members[i].thread, sizeof others, &others);
    team->here = here;
}
#endif

static void call(smidgen_team *team, smidgen_task *task, void *given) {
    pthread_mutex_lock(&team->lock);
    team->task = task;
    team->given = given;
    __atomic_store_n(&team->round, team->round + 1, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&team->call);
    pthread_mutex_unlock(&team->lock);
}

void smidgen_team_do(smidgen_team *team, smidgen_task *task, void *given) {
#if defined(__linux__)
    if (team)
        step_aside(team);
#endif
    if (team)
        call(team, task, given);
    task(team, given, 0);
    if (team)
        meet(team);
}

void smidgen_team_run(smidgen_team *team, smidgen_network *network) {
    smidgen_team_do(team, run, network);
}

void smidgen_team_lock(smidgen_team *team) {
    if (team)
        pthread_mutex_lock(&team->lock);
}

void smidgen_team_unlock(smidgen_team *team) {
    if (team)
        pthread_mutex_unlock(&team->lock);
}

size_t smidgen_team_size(uint32_t threads) {
    return sizeof(smidgen_team) + threads * sizeof(member);
}

smidgen_team *smidgen_team_start(void *memory, uint32_t threads) {
    smidgen_team *team = memory;
    uint32_t started;
    if (threads < 1 || threads > MOST_THREADS)
        return 0;
    *team = (smidgen_team){.threads = threads};
#if defined(__linux__)
    team->here = -1;
    if (pthread_getaffinity_np(pthread_self(), sizeof team->allowed, &team->allowed))
        CPU_ZERO(&team->allowed);
#endif
    if (pthread_mutex_init(&team->lock, 0))
        return 0;
    if (pthread_cond_init(&team->call, 0)) {
        pthread_mutex_destroy(&team->lock);
        return 0;
    }
    for (started = 1; started < threads; started++) {
        team->members[started] = (member){.team = team, .number = started};
        if (pthread_create(&team->members[started].thread, 0, wait_for_work, &team->members[started]))
            break;
    }
    if (started == threads)
        return team;
    team->threads = started; /* the platform has no more to give */
    smidgen_team_stop(team);
    return 0;
}

void smidgen_team_stop(smidgen_team *team) {
    call(team, 0, 0);
    for (uint32_t i = 1; i < team->threads; i++)
        pthread_join(team->members[i].thread, 0);
    pthread_cond_destroy(&team->call);
    pthread_mutex_destroy(&team->lock);
}
#else
void smidgen_team_do(smidgen_team *team, smidgen_task *task, void *given) {
    task(team, given, 0);
}

void smidgen_team_lock(smidgen_team *team) {
    (void)team;
}

void smidgen_team_unlock(smidgen_team *team) {
    (void)team;
}

void smidgen_team_run(smidgen_team *team, smidgen_network *network) {
    (void)team;
    for (uint32_t i = 0; i < network->operation_count; i++)
        smidgen_run_operation(network, &network->operations[i], 0, 1);
}

size_t smidgen_team_size(uint32_t threads) {
    (void)threads;
    return 0;
}

smidgen_team *smidgen_team_start(void *memory, uint32_t threads) {
    (void)memory;
    (void)threads;
    return 0;
}

void smidgen_team_stop(smidgen_team *team) {
    (void)team;
}
#endif
