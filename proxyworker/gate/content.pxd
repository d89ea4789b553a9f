# C types for content.py.


cdef class ContentStream:
    cdef str _session_id
    cdef object _op
    cdef object _direction
    cdef list _parts
    cdef object _digest
    cdef Py_ssize_t _pressed_bytes
    cdef readonly Py_ssize_t total_bytes
    cdef readonly Py_ssize_t waiting_bytes

    cpdef add(self, bytes data)
    cpdef bint is_inline(self)
    cpdef list take(self)
    cpdef bytes digest(self)
