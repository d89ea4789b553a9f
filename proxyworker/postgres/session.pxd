# C types for session.py.
from proxyworker.gate.decide cimport Decider
from proxyworker.gate.record cimport RecordedOperation, SessionRecorder
from proxyworker.gate.release cimport ReleaseQueue
from proxyworker.postgres.pipeline cimport Pipeline
from proxyworker.postgres.requests cimport Requests
from proxyworker.wire.postgres.scan cimport FrameScanner


cdef class PostgresSession:
    cdef readonly str session_id
    cdef readonly object agent_side
    cdef readonly object target_side
    cdef object _services
    cdef object _grant
    cdef object _loop
    cdef double _started
    cdef double _last_used
    cdef object _on_closed
    cdef object _upstream
    cdef object _agent
    cdef object _target
    cdef object _agent_valve
    cdef object _target_valve
    cdef object _state
    cdef SessionRecorder _recorder
    cdef Pipeline _pipeline
    cdef Decider _decider
    cdef object _cuts
    cdef object _values
    cdef Requests _requests
    cdef FrameScanner _agent_frames
    cdef object _agent_gathered
    cdef Py_ssize_t _discard_bytes
    cdef Py_ssize_t _backlog_bound_bytes
    cdef object _backlog
    cdef object _question
    cdef object _charged
    cdef FrameScanner _target_frames
    cdef object _target_gathered
    cdef ReleaseQueue _to_target
    cdef ReleaseQueue _to_agent
    cdef Py_ssize_t _intent_position
    cdef object _was_told_why
    cdef object _open
    cdef object _drain_timer
    cdef object _drain_reason

    cdef _requests_of(self, data)
    cdef _dispatch(self, bytes data)
    cdef _answers_of(self, data)
    cdef _show(self, RecordedOperation operation, bytes data, Py_ssize_t start, Py_ssize_t end)
    cdef _release(self, bytes data)
    cdef _finish_operations(self)
    cdef _refuse_what_is_due(self)
