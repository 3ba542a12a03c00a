"""TencentGR: layouts H (public release) and C (competition files), and the way from H to C."""
