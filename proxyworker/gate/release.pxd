# C types for release.py. Positions count bytes of a journal: they fit a Py_ssize_t.


cdef class Held:
    cdef readonly bytes data
    cdef public Py_ssize_t position
    cdef public Py_ssize_t unrecorded


cdef class ReleaseQueue:
    cdef object _journal
    cdef object _write
    cdef object _on_level
    cdef object _queue
    cdef object _on_empty
    cdef Py_ssize_t _held_bytes
    cdef bint _is_high
    cdef bint _is_shut

    cpdef put(self, bytes data, Py_ssize_t position, Py_ssize_t unrecorded=*)
