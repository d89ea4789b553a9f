# C types for requests.py.
from proxyworker.gate.decide cimport Decider
from proxyworker.gate.record cimport RecordedOperation, SessionRecorder
from proxyworker.postgres.pipeline cimport Pipeline


cdef class Requests:
    cdef SessionRecorder _recorder
    cdef Decider _decider
    cdef object _meter
    cdef Pipeline _pipeline
    cdef object _on_barrier_over
    cdef object _on_charged
    cdef object _names
    cdef object _state
    cdef object _granted_portals
    cdef public object held
    cdef object _opened_under
    cdef object _held_under
    cdef object _loose
    cdef object _bound
    cdef object _cursors_owe
    cdef bint _is_refusing
    cdef public bint has_write
    cdef public bint is_at_barrier
    cdef public bint waits_for_budget
    cdef public bint is_over
    cdef object _handlers

    cpdef bint take(self, int kind, bytes data, Py_ssize_t start, Py_ssize_t end) except -1
    cpdef settle_batch(self)
    cpdef at_rest(self)
    cpdef transaction_ended(self)
    cdef _decide(self, statement)
