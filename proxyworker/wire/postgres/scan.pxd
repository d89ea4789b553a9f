# C types for scan.py. Bytes go through Py_ssize_t before they are shifted: a shifted C int would turn negative.
cimport cython


cdef class FrameScanner:
    cdef Py_ssize_t _run_a
    cdef Py_ssize_t _run_b
    cdef Py_ssize_t _max_frame_bytes
    cdef Py_ssize_t _run_type
    cdef readonly Py_ssize_t run_left
    cdef readonly Py_ssize_t consumed
    cdef readonly Py_ssize_t needed
    cdef readonly Py_ssize_t oversized

    cpdef forget_run(self)

    @cython.locals(
        spans=list, size=Py_ssize_t, at=Py_ssize_t, end=Py_ssize_t, kind=Py_ssize_t, length=Py_ssize_t,
        b0=Py_ssize_t, b1=Py_ssize_t, b2=Py_ssize_t, b3=Py_ssize_t,
        run_type=Py_ssize_t, run_start=Py_ssize_t, run_frames=Py_ssize_t,
    )
    cpdef list scan(self, bytes data)
