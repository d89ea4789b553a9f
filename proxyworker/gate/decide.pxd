# C types for decide.py.


cdef class Decider:
    cdef object _grant
    cdef object _clock
    cdef dict _kept
    cdef double _kept_until
    cdef object _policy
    cdef readonly bint hides_columns

    cpdef decide(self, operation, bytes text)
