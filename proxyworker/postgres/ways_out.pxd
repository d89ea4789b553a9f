# C types for ways_out.py.
from proxyworker.gate.record cimport SessionRecorder
from proxyworker.gate.release cimport ReleaseQueue
from proxyworker.postgres.pipeline cimport Pipeline
from proxyworker.postgres.requests cimport Requests


cdef class WaysOut:
    cdef SessionRecorder _recorder
    cdef Pipeline _pipeline
    cdef Requests _requests
    cdef object _cuts
    cdef object _agent_valve
    cdef readonly ReleaseQueue to_target
    cdef readonly ReleaseQueue to_agent
    cdef readonly Py_ssize_t intent_position

    cpdef dispatch(self, bytes data)
    cpdef release(self, bytes data)
    cpdef release_refusals(self)
    cdef _finish_operations(self)
