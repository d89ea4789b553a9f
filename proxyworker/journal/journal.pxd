# C types for journal.py. Callbacks stand here as attributes alone: a cpdef method is no bound method.
from proxyworker.journal.state cimport OpenState


cdef class Journal:
    cdef readonly object folder
    cdef readonly str journal_id
    cdef public object failed
    cdef readonly list on_failure
    cdef readonly object _sync
    cdef object _loop
    cdef Py_ssize_t _bound_bytes
    cdef Py_ssize_t _segment_bytes
    cdef Py_ssize_t _seq
    cdef bytes _chain
    cdef OpenState _state
    cdef list _segments
    cdef Py_ssize_t _end
    cdef Py_ssize_t _durable
    cdef Py_ssize_t _requested
    cdef Py_ssize_t _acknowledged
    cdef Py_ssize_t _spooled_bytes
    cdef list _waiting
    cdef object _order
    cdef list _relieved
    cdef bint _is_syncing
    cdef int _lock
    cdef int _descriptor
    cdef Py_ssize_t _offset
    cdef object _spare

    cpdef when_durable(self, Py_ssize_t position, callback)
    cdef _write(self, records, content)
    cdef _request_sync(self)
    cdef _relieve(self)
