# C types for agent_stream.py.
from proxyworker.gate.record cimport SessionRecorder
from proxyworker.postgres.holding cimport Holding
from proxyworker.postgres.pipeline cimport Pipeline
from proxyworker.postgres.requests cimport Requests
from proxyworker.postgres.ways_out cimport WaysOut
from proxyworker.wire.postgres.scan cimport FrameScanner


cdef class AgentStream:
    cdef object _course
    cdef SessionRecorder _recorder
    cdef Pipeline _pipeline
    cdef Requests _requests
    cdef Holding _holding
    cdef WaysOut _ways_out
    cdef object _ending
    cdef object _valve
    cdef Py_ssize_t _max_statement_bytes
    cdef object _loop
    cdef FrameScanner _frames
    cdef object _gathered
    cdef Py_ssize_t _discard_bytes
    cdef Py_ssize_t _backlog_bound_bytes
    cdef object _backlog

    cdef _take(self, data)
