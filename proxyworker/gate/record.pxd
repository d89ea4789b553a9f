# C types for record.py.
from proxyworker.gate.content cimport ContentStream


cdef class RecordedOperation:
    cdef public object intent
    cdef public object charge
    cdef public object columns
    cdef public object error_code
    cdef public object error_message
    cdef public object number
    cdef public object on_recorded
    cdef public list on_secured
    cdef public object status
    cdef public list tags
    cdef public object started_ns
    cdef public object rows
    cdef public Py_ssize_t position
    cdef public Py_ssize_t pressing
    cdef public Py_ssize_t outstanding
    cdef public bint is_finished
    cdef public ContentStream shown
    cdef public ContentStream sent

    cpdef fail(self, str code, str message)


cdef class SessionRecorder:
    cdef str _session_id
    cdef object _journal
    cdef object _lane
    cdef object _clock
    cdef object _on_level
    cdef public object _on_failure
    cdef object _loop
    cdef list _records
    cdef list _content
    cdef object _operations
    cdef list _cut
    cdef dict _unfinished
    cdef Py_ssize_t _pressing_bytes
    cdef bint _is_congested
    cdef bint _is_high
    cdef ContentStream _aside
    cdef object _close_reason
    cdef object _on_closed

    cpdef list take_cut(self)
    cpdef shown(self, RecordedOperation operation, bytes data)
    cpdef sent(self, RecordedOperation operation, bytes data)
    cdef _feed(self, RecordedOperation operation, ContentStream stream, bytes data)
    cpdef bint finish(self, RecordedOperation operation) except -1
    cdef _keep(self, ContentStream stream)
    cpdef Py_ssize_t flush(self) except -1
    cdef _outcome(self, RecordedOperation operation)
    cdef _press(self, RecordedOperation operation, ContentStream stream)
    cdef _update_level(self)
