# C types for target_stream.py.
from proxyworker.gate.decide cimport Decider
from proxyworker.gate.record cimport RecordedOperation, SessionRecorder
from proxyworker.postgres.holding cimport Holding
from proxyworker.postgres.pipeline cimport Pipeline
from proxyworker.postgres.requests cimport Requests
from proxyworker.postgres.ways_out cimport WaysOut
from proxyworker.wire.postgres.scan cimport FrameScanner


cdef class TargetStream:
    cdef str _session_id
    cdef object _course
    cdef SessionRecorder _recorder
    cdef Decider _decider
    cdef Pipeline _pipeline
    cdef Requests _requests
    cdef object _cuts
    cdef Holding _holding
    cdef WaysOut _ways_out
    cdef object _ending
    cdef object _valve
    cdef object _agent_valve
    cdef object _loop
    cdef FrameScanner _frames
    cdef object _gathered
    cdef object _charged

    cdef _take(self, data)
    cdef _show(self, RecordedOperation operation, bytes data, Py_ssize_t start, Py_ssize_t end)
