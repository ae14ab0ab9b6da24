/* Streams, events and graphs. Work is only queued; it is done, in order, when somebody synchronises. */
#define _GNU_SOURCE
#include "emulated.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct CUstream_st {
    struct op *first, **last;
    struct CUgraph_st *capture; /* what it captures into, or NULL */
    CUstreamCaptureMode mode;
    pthread_t capturer;
    int is_broken, is_running;
    struct CUstream_st *next;
};
struct CUevent_st { long submitted, done; double at_ms; };
struct CUgraph_st { struct op *first, **last; };
struct CUgraphExec_st { struct op *first; };

static struct CUstream_st legacy = {.last = &legacy.first};
static struct CUstream_st *streams = &legacy;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t idle = PTHREAD_COND_INITIALIZER;

static struct CUstream_st *real(CUstream stream) {
    return !stream || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD ? &legacy : stream;
}

static int is_known(CUstream stream) {
    for (struct CUstream_st *s = streams; s; s = s->next) if (s == stream) return 1;
    return 0;
}

static void append(struct op ***last, struct op work) {
    struct op *fresh = malloc(sizeof *fresh);
    *fresh = work;
    fresh->next = NULL;
    **last = fresh;
    *last = &fresh->next;
}

static void drop(struct op *first) {
    while (first) {
        struct op *next = first->next;
        free(first);
        first = next;
    }
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void perform(struct op *work) {
    switch (work->kind) {
    case OP_COPY:
        if (!emu_enter("op.copy")) memcpy((void *)work->to, (const void *)work->from, work->bytes);
        break;
    case OP_SET:
        for (size_t i = 0; i < work->bytes; i++) memcpy((char *)work->to + i * work->width, &work->value, work->width);
        break;
    case OP_HOST:
        if (!emu_enter("op.host")) work->function(work->data);
        break;
    case OP_RECORD:
        work->event->at_ms = now_ms();
        work->event->done++;
        break;
    case OP_WAIT: /* the whole process drains in one order, so what it waits for was submitted before */
        break;
    }
}

/* Does the stream's work up to its end, or until `event` is done. The lock is held, but not while an op runs. */
static CUresult drain(struct CUstream_st *stream, CUevent event) {
    while (stream->is_running) pthread_cond_wait(&idle, &lock);
    stream->is_running = 1;
    while (stream->first && !(event && event->done >= event->submitted)) {
        struct op *work = stream->first;
        stream->first = work->next;
        if (!stream->first) stream->last = &stream->first;
        pthread_mutex_unlock(&lock);
        if (!emu_sticky) perform(work); /* after a fatal error nothing more is done */
        else if (work->kind == OP_RECORD) work->event->done++;
        free(work);
        pthread_mutex_lock(&lock);
    }
    stream->is_running = 0;
    pthread_cond_broadcast(&idle);
    return (CUresult)emu_sticky;
}

CUresult emu_drain_all(void) {
    pthread_mutex_lock(&lock);
    for (struct CUstream_st *s = streams; s; s = s->next) if (!s->capture) drain(s, NULL);
    pthread_mutex_unlock(&lock);
    return (CUresult)emu_sticky;
}

CUresult emu_forbidden_in_capture(void) {
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    for (struct CUstream_st *s = streams; s; s = s->next) {
        if (!s->capture || s->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
        if (s->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && !pthread_equal(s->capturer, pthread_self())) continue;
        s->is_broken = 1;
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult emu_submit(CUstream handle, struct op work) {
    struct CUstream_st *stream = real(handle);
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    if (!is_known(stream)) result = CUDA_ERROR_INVALID_HANDLE;
    else if (stream->capture && stream->is_broken) result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else if (stream->capture) append(&stream->capture->last, work);
    else append(&stream->last, work);
    pthread_mutex_unlock(&lock);
    return result;
}

/* ---- streams ---- */

CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
    ENTER_CONTEXT();
    (void)flags;
    struct CUstream_st *fresh = calloc(1, sizeof *fresh);
    fresh->last = &fresh->first;
    pthread_mutex_lock(&lock);
    fresh->next = streams;
    streams = fresh;
    emu_live_counts[LIVE_STREAM]++;
    pthread_mutex_unlock(&lock);
    *stream = fresh;
    return CUDA_SUCCESS;
}

CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned int flags, int priority) {
    (void)priority;
    return cuStreamCreate(stream, flags);
}

CUresult cuStreamDestroy(CUstream stream) {
    CUresult fault = emu_enter_context(__func__);
    if (fault && fault != (CUresult)emu_sticky) return fault;
    pthread_mutex_lock(&lock);
    if (stream == &legacy || !is_known(stream)) {
        pthread_mutex_unlock(&lock);
        return CUDA_ERROR_INVALID_HANDLE;
    }
    drain(stream, NULL);
    for (struct CUstream_st **at = &streams; *at; at = &(*at)->next)
        if (*at == stream) { *at = stream->next; break; }
    emu_live_counts[LIVE_STREAM]--;
    pthread_mutex_unlock(&lock);
    free(stream);
    return fault;
}

CUresult cuStreamSynchronize(CUstream handle) {
    ENTER_CONTEXT();
    struct CUstream_st *stream = real(handle);
    pthread_mutex_lock(&lock);
    CUresult result = CUDA_ERROR_INVALID_HANDLE;
    if (is_known(stream) && stream->capture) {
        stream->is_broken = 1;
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    } else if (is_known(stream)) {
        result = drain(stream, NULL);
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult cuStreamQuery(CUstream handle) {
    ENTER_CONTEXT();
    return real(handle)->first ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) {
    ENTER_CONTEXT();
    (void)flags;
    return emu_submit(stream, (struct op){.kind = OP_WAIT, .event = event});
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *data) {
    ENTER_CONTEXT();
    return emu_submit(stream, (struct op){.kind = OP_HOST, .function = function, .data = data});
}

/* ---- events ---- */

CUresult cuEventCreate(CUevent *event, unsigned int flags) {
    ENTER_CONTEXT();
    (void)flags;
    *event = calloc(1, sizeof **event);
    __atomic_add_fetch(&emu_live_counts[LIVE_EVENT], 1, __ATOMIC_SEQ_CST);
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
    CUresult fault = emu_enter_context(__func__);
    if (fault && fault != (CUresult)emu_sticky) return fault;
    emu_drain_all();
    __atomic_sub_fetch(&emu_live_counts[LIVE_EVENT], 1, __ATOMIC_SEQ_CST);
    free(event);
    return fault;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
    ENTER_CONTEXT();
    if (!real(stream)->capture) event->submitted++;
    return emu_submit(stream, (struct op){.kind = OP_RECORD, .event = event});
}

CUresult cuEventSynchronize(CUevent event) {
    ENTER_CONTEXT();
    pthread_mutex_lock(&lock);
    for (struct CUstream_st *s = streams; s && event->done < event->submitted; s = s->next) if (!s->capture) drain(s, event);
    pthread_mutex_unlock(&lock);
    return (CUresult)emu_sticky;
}

CUresult cuEventQuery(CUevent event) {
    ENTER_CONTEXT();
    return event->done < event->submitted ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

static CUresult elapsed(float *milliseconds, CUevent start, CUevent end) {
    if (!start->submitted || !end->submitted) return CUDA_ERROR_INVALID_HANDLE;
    if (start->done < start->submitted || end->done < end->submitted) return CUDA_ERROR_NOT_READY;
    *milliseconds = (float)(end->at_ms - start->at_ms);
    return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    ENTER_CONTEXT();
    return elapsed(milliseconds, start, end);
}

/* ---- graphs ---- */

CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
    ENTER_CONTEXT();
    if (real(stream) == &legacy || stream->capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    struct CUgraph_st *graph = calloc(1, sizeof *graph);
    graph->last = &graph->first;
    pthread_mutex_lock(&lock);
    stream->capture = graph;
    stream->mode = mode;
    stream->capturer = pthread_self();
    stream->is_broken = 0;
    emu_live_counts[LIVE_GRAPH]++;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) {
    ENTER_CONTEXT();
    struct CUstream_st *s = real(stream);
    *status = !s->capture ? CU_STREAM_CAPTURE_STATUS_NONE
              : s->is_broken ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph) {
    CUresult fault = emu_enter_context(__func__);
    if (fault && fault != (CUresult)emu_sticky) return fault;
    __atomic_sub_fetch(&emu_live_counts[LIVE_GRAPH], 1, __ATOMIC_SEQ_CST);
    drop(graph->first);
    free(graph);
    return fault;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    ENTER_CONTEXT();
    if (!stream || !stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
    pthread_mutex_lock(&lock);
    *graph = stream->capture;
    stream->capture = NULL;
    int is_broken = stream->is_broken;
    pthread_mutex_unlock(&lock);
    if (!is_broken) return CUDA_SUCCESS;
    cuGraphDestroy(*graph);
    *graph = NULL;
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
}

CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *count) {
    ENTER_CONTEXT();
    *count = 0;
    for (struct op *work = graph->first; work; work = work->next) ++*count;
    return nodes ? CUDA_ERROR_NOT_SUPPORTED : CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags) {
    ENTER_CONTEXT();
    (void)flags;
    struct CUgraphExec_st *fresh = calloc(1, sizeof *fresh);
    struct op **last = &fresh->first;
    for (struct op *work = graph->first; work; work = work->next) append(&last, *work);
    __atomic_add_fetch(&emu_live_counts[LIVE_EXEC], 1, __ATOMIC_SEQ_CST);
    *exec = fresh;
    return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    ENTER_CONTEXT();
    for (struct op *work = exec->first; work; work = work->next) {
        CUresult result = emu_submit(stream, *work);
        if (result) return result;
    }
    return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec exec) {
    CUresult fault = emu_enter_context(__func__);
    if (fault && fault != (CUresult)emu_sticky) return fault;
    emu_drain_all();
    __atomic_sub_fetch(&emu_live_counts[LIVE_EXEC], 1, __ATOMIC_SEQ_CST);
    drop(exec->first);
    free(exec);
    return fault;
}
