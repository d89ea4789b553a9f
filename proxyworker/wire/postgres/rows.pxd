# C types for rows.py. Bytes go through Py_ssize_t before they are shifted: a shifted C int would turn negative.
cimport cython


@cython.locals(
    found=list, fresh=set, columns=Py_ssize_t, at=Py_ssize_t, row_end=Py_ssize_t, count=Py_ssize_t, place=Py_ssize_t,
    column=Py_ssize_t, length=Py_ssize_t, value=bytes, b0=Py_ssize_t, b1=Py_ssize_t, b2=Py_ssize_t, b3=Py_ssize_t,
)
cpdef list new_values(bytes data, Py_ssize_t start, Py_ssize_t end, bytes wanted, set known)


@cython.locals(
    count=Py_ssize_t, at=Py_ssize_t, frame_end=Py_ssize_t, b0=Py_ssize_t, b1=Py_ssize_t, b2=Py_ssize_t, b3=Py_ssize_t,
)
cpdef tuple whole_rows(bytes data, Py_ssize_t start, Py_ssize_t end, Py_ssize_t most)
