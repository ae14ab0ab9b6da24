/* A CUDA driver for tests: the documented driver API over host memory, with no device behind it.
 *
 * What it does that hardware cannot: fresh memory is filled with 0xFF (NaN as float), live objects are counted, any
 * call can be made to fail or hang, asynchronous work waits until somebody synchronises, and an asynchronous copy from
 * memory that is not page-locked is refused. Nothing here says anything about speed.
 */
#ifndef EMULATED_H
#define EMULATED_H

#include <cuda.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

enum { POISON = 0xFF };

/* ---- what is counted and what can be told (control.c) ---- */

enum live { LIVE_DEVICE, LIVE_HOST, LIVE_STREAM, LIVE_EVENT, LIVE_GRAPH, LIVE_EXEC, LIVE_PRIMARY, LIVE_BYTES, LIVE_KINDS };
extern long emu_live_counts[LIVE_KINDS];

enum config { CFG_INTEGRATED, CFG_SM_COUNT, CFG_CC_MAJOR, CFG_CC_MINOR, CFG_TOTAL_MB, CFG_MAP_HOST, CFG_KINDS };
extern long emu_config[CFG_KINDS];

extern long emu_pageable_async; /* refused copies to or from memory that is not page-locked */
extern int emu_sticky;          /* the error that every later call on the context gives */
extern int emu_is_initialised;

/* Counts the call and gives the fault that was ordered for it, or CUDA_SUCCESS. */
CUresult emu_enter(const char *name);
/* As emu_enter, and demands a current context and no earlier fatal error. */
CUresult emu_enter_context(const char *name);

#define ENTER() do { CUresult fault_ = emu_enter(__func__); if (fault_) return fault_; } while (0)
#define ENTER_CONTEXT() do { CUresult fault_ = emu_enter_context(__func__); if (fault_) return fault_; } while (0)

/* ---- contexts (context.c) ---- */

int emu_has_current(void);

/* ---- memory (memory.c) ---- */

int emu_is_device(uintptr_t address, size_t bytes); /* device memory, or the device's view of mapped host memory */
int emu_is_page_locked(uintptr_t address, size_t bytes);

/* ---- streams (stream.c) ---- */

enum kind { OP_COPY, OP_SET, OP_HOST, OP_RECORD, OP_WAIT };
struct op {
    enum kind kind;
    uintptr_t to, from;
    size_t bytes;
    unsigned value, width;
    CUhostFn function;
    void *data;
    struct CUevent_st *event;
    struct op *next;
};

/* Gives the stream's queue this work (or its graph, while it captures). */
CUresult emu_submit(CUstream stream, struct op work);
/* Does all work that was submitted; gives the fatal error that came of it. */
CUresult emu_drain_all(void);
/* CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED while this thread captures in a mode that forbids such calls. */
CUresult emu_forbidden_in_capture(void);

#endif
