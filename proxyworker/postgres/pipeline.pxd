# C types for pipeline.py.
from proxyworker.gate.record cimport RecordedOperation


cdef class Expected:
    cdef public object step
    cdef public RecordedOperation operation
    cdef public object on_done
    cdef public object on_described
    cdef public bytes refusal
    cdef public bint with_ready
    cdef public object rows
    cdef public bint is_copying
    cdef public int syncs_within
    cdef public bint is_settled


cdef class Pipeline:
    cdef public int transaction_status
    cdef public list finished
    cdef public bint is_skipping
    cdef public bint is_at_rest
    cdef public Py_ssize_t refusals
    cdef Py_ssize_t _ignored_syncs
    cdef object _expected

    cpdef push(self, Expected expected)
    cpdef answer(self, int kind, bytes data, Py_ssize_t start, Py_ssize_t end, Py_ssize_t frames)
    cdef _copying(self, Expected head)
    cdef _result(self, int kind, Expected head, bytes data, Py_ssize_t start, Py_ssize_t end)
    cdef _ready(self, bytes data, Py_ssize_t start, Py_ssize_t end)
    cdef _error(self, bytes data, Py_ssize_t start, Py_ssize_t end)
    cdef _skip(self, Expected expected)
    cdef _done(self, bint succeeded)
    cdef _settle(self, Expected expected, bint succeeded)
