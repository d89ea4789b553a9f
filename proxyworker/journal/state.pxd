# C types for state.py.


cdef class OpenState:
    cdef public dict sessions

    cpdef apply(self, record)
    cdef _session(self, str session_id)
