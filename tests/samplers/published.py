r"""The solvers again, in NumPy and float64, written as their papers write them: no code, plan or coefficient of the package is used.

All for a variance preserving process, which its half log-SNR determines: :math:`\alpha^2 = 1 / (1 + e^{-2 \lambda})`. `D(x, lam)` and
`E(x, lam)` are the data and the noise predicted at a state; `z()` hands out standard normal noise.
"""

import numpy as np
from numpy.polynomial import Polynomial
from scipy.integrate import quad


def alpha(lam):
    return (1 + np.exp(-2 * lam)) ** -0.5


def sigma(lam):
    return (1 + np.exp(2 * lam)) ** -0.5


def lagrange(nodes, j):
    """Return the polynomial that is 1 at node j and 0 at the others."""
    result = Polynomial([1.0])
    for k, node in enumerate(nodes):
        if k != j:
            result *= Polynomial([-node, 1.0]) / (nodes[j] - node)
    return result


def dpm_multistep(x, lam, D, E, z, steps, data):
    """DPM-Solver(++) 2M and 3M: arXiv:2211.01095, algorithm 2, and the authors' third-order update, in terms of D1 and D2."""
    old = []
    for i in range(len(lam) - 1):
        s, t, h = lam[i], lam[i + 1], lam[i + 1] - lam[i]
        old = [D(x, s) if data else E(x, s), *old][:steps]
        x_lin, phi = (
            (sigma(t) / sigma(s), np.expm1(-h)) if data else (alpha(t) / alpha(s), np.expm1(h))
        )
        scale = -alpha(t) if data else -sigma(t)
        if len(old) == 1:
            x = x_lin * x + scale * phi * old[0]
            continue
        r0 = (lam[i] - lam[i - 1]) / h
        first = (old[0] - old[1]) / r0
        if len(old) == 2:
            x = x_lin * x + scale * phi * old[0] + 0.5 * scale * phi * first
            continue
        r1 = (lam[i - 1] - lam[i - 2]) / h
        second = (old[1] - old[2]) / r1
        d1, d2 = first + r0 / (r0 + r1) * (first - second), (first - second) / (r0 + r1)
        if data:
            x = (
                x_lin * x
                + scale * phi * old[0]
                - scale * (phi / h + 1) * d1
                + scale * ((phi + h) / h**2 - 0.5) * d2
            )
        else:
            x = (
                x_lin * x
                + scale * phi * old[0]
                + scale * (phi / h - 1) * d1
                + scale * ((phi - h) / h**2 - 0.5) * d2
            )
    return x


def dpm_sde_multistep(x, lam, D, E, z, steps):
    """SDE-DPM-Solver++(2M), arXiv:2211.01095, eq. 19, and the three-step one of k-diffusion."""
    old = []
    for i in range(len(lam) - 1):
        s, t, h = lam[i], lam[i + 1], lam[i + 1] - lam[i]
        old = [D(x, s), *old][:steps]
        phi = -np.expm1(-2 * h)
        x = (
            sigma(t) / sigma(s) * np.exp(-h) * x
            + alpha(t) * phi * old[0]
            + sigma(t) * np.sqrt(phi) * z()
        )
        if len(old) > 1:
            r0 = (lam[i] - lam[i - 1]) / h
            first = (old[0] - old[1]) / r0
        if len(old) == 2:
            x = x + 0.5 * alpha(t) * phi * first
        if len(old) == 3:
            r1 = (lam[i - 1] - lam[i - 2]) / h
            second = (old[1] - old[2]) / r1
            d1, d2 = first + r0 / (r0 + r1) * (first - second), (first - second) / (r0 + r1)
            phi_2 = 1 - phi / (2 * h)
            x = x + alpha(t) * phi_2 * d1 - alpha(t) * (phi_2 / (2 * h) - 0.5) * d2
    return x


def singlestep(x, lam, D, E, z, order, data):
    """DPM-Solver-1 to -3, arXiv:2206.00927, algorithms 1 and 2, and their ++ versions."""
    for s, t in zip(lam[:-1], lam[1:], strict=True):
        h, F = t - s, D if data else E
        first = F(x, s)

        def ddim(r, x=x, s=s, h=h, first=first):
            lin = sigma(s + r * h) / sigma(s) if data else alpha(s + r * h) / alpha(s)
            return (
                lin * x
                - (
                    alpha(s + r * h) * np.expm1(-r * h)
                    if data
                    else sigma(s + r * h) * np.expm1(r * h)
                )
                * first
            )

        if order == 1:
            x = ddim(1)
        elif order == 2:
            change = F(ddim(0.5), s + 0.5 * h) - first
            x = ddim(1) - (alpha(t) * np.expm1(-h) if data else sigma(t) * np.expm1(h)) * change
        else:
            r1, r2 = 1 / 3, 2 / 3
            d1 = F(ddim(r1), s + r1 * h) - first
            if data:
                u2 = (
                    ddim(r2) + r2 / r1 * alpha(s + r2 * h) * (np.expm1(-r2 * h) / (r2 * h) + 1) * d1
                )
                x = ddim(1) + 1 / r2 * alpha(t) * (np.expm1(-h) / h + 1) * (
                    F(u2, s + r2 * h) - first
                )
            else:
                u2 = ddim(r2) - r2 / r1 * sigma(s + r2 * h) * (np.expm1(r2 * h) / (r2 * h) - 1) * d1
                x = ddim(1) - 1 / r2 * sigma(t) * (np.expm1(h) / h - 1) * (
                    F(u2, s + r2 * h) - first
                )
    return x


def seeds(x, lam, D, E, z, order):
    """SEEDS-1 to -3, arXiv:2305.14267, algorithms 1 to 3."""
    for s, t in zip(lam[:-1], lam[1:], strict=True):
        h, first = t - s, E(x, s)

        def mean(r, x=x, s=s, h=h, first=first):
            return alpha(s + r * h) / alpha(s) * x - 2 * sigma(s + r * h) * np.expm1(r * h) * first

        if order == 1:
            x = mean(1) + sigma(t) * np.sqrt(np.expm1(2 * h)) * z()
        elif order == 2:
            noise = z()
            u = mean(0.5) + sigma(s + h / 2) * np.sqrt(np.expm1(h)) * noise
            x = alpha(t) / alpha(s) * x - 2 * sigma(t) * np.expm1(h) * E(u, s + h / 2)
            x = x + sigma(t) * (
                np.sqrt(np.exp(2 * h) - np.exp(h)) * noise + np.sqrt(np.expm1(h)) * z()
            )
        else:
            r1, r2, z1, z2, z3 = 1 / 3, 2 / 3, z(), z(), z()
            u1 = mean(r1) + sigma(s + r1 * h) * np.sqrt(np.expm1(2 * r1 * h)) * z1
            d1 = E(u1, s + r1 * h) - first
            u2 = mean(r2) - 2 * sigma(s + r2 * h) * r2 / r1 * (np.expm1(r2 * h) / (r2 * h) - 1) * d1
            parts = [
                np.sqrt(np.exp(2 * b * h) - np.exp(2 * a * h))
                for a, b in ((r2, 1), (r1, r2), (0, r1))
            ]
            u2 = u2 + sigma(s + r2 * h) * (parts[1] * z1 + parts[2] * z2)
            x = mean(1) - 2 * sigma(t) / r2 * (np.expm1(h) / h - 1) * (E(u2, s + r2 * h) - first)
            x = x + sigma(t) * (parts[0] * z1 + parts[1] * z2 + parts[2] * z3)
    return x


def dpm_sde_single(x, lam, D, E, z):
    """SDE-DPM-Solver++(2S): the exact Ornstein-Uhlenbeck step with the data predicted in its middle, over one Brownian path."""
    for s, t in zip(lam[:-1], lam[1:], strict=True):
        h = t - s
        m, z1, z2 = s + h / 2, z(), z()
        u = (
            sigma(m) / sigma(s) * np.exp(-h / 2) * x
            - alpha(m) * np.expm1(-h) * D(x, s)
            + sigma(m) * np.sqrt(-np.expm1(-h)) * z1
        )
        x = sigma(t) / sigma(s) * np.exp(-h) * x - alpha(t) * np.expm1(-2 * h) * D(u, m)
        x = x + sigma(t) * (np.sqrt(np.exp(-h) - np.exp(-2 * h)) * z1 + np.sqrt(-np.expm1(-h)) * z2)
    return x


def adams_bashforth(x, c, rho, lam, D, E, z, order):
    """DEIS, arXiv:2204.13902, eq. 15: weights by quadrature of Lagrange polynomials in the variable c over d rho, for monotone c(rho)."""
    old, y = [], x / alpha(lam[0])
    for i in range(len(c) - 1):
        old = [E(alpha(lam[i]) * y, lam[i]), *old][:order]
        nodes = c[i::-1][: len(old)]
        for j, value in enumerate(old):
            polynomial = lagrange(nodes, j)
            # integral of l_j d rho by parts, so that only rho(c) is needed
            inner = quad(
                lambda v, p=polynomial: p.deriv()(v) * rho(v),
                c[i],
                c[i + 1],
                epsabs=1e-11,
                epsrel=1e-11,
            )[0]
            y = (
                y
                + (polynomial(c[i + 1]) * rho(c[i + 1]) - polynomial(c[i]) * rho(c[i]) - inner)
                * value
            )
    return alpha(lam[-1]) * y


def velocity(x, lam, D, E, z, order):
    """Adams-Bashforth for dx/dv = cos v eps - sin v x0 with v the angle of (alpha, sigma)."""
    angle, old = np.arctan(np.exp(-lam)), []
    for i in range(len(lam) - 1):
        old = [np.cos(angle[i]) * E(x, lam[i]) - np.sin(angle[i]) * D(x, lam[i]), *old][:order]
        nodes = angle[i::-1][: len(old)]
        for j, value in enumerate(old):
            integral = lagrange(nodes, j).integ()
            x = x + (integral(angle[i + 1]) - integral(angle[i])) * value
    return x


def unipc(x, lam, D, E, z, order, b):
    """UniPC on the data prediction, arXiv:2302.04867, algorithms 5 and 6: R_p rho B(h) = phi."""
    old = []  # (lambda, prediction), newest first
    before = None
    for i in range(len(lam)):
        now = D(x, lam[i])
        if before is not None and i < len(lam) - 1:
            x = _uni(*before, lam[i], [*before[2][1:], (lam[i], now)], b)
        old = [(lam[i], now), *old][:order]
        if i < len(lam) - 1:
            before = (x, lam[i], old)
            predicted = _uni(x, lam[i], old, lam[i + 1], old[1:], b)
            x = predicted
    return x


def _uni(x, s, old, t, others, b):
    h = t - s
    scale = h if b == "bh1" else -np.expm1(-h)
    x = sigma(t) / sigma(s) * x - alpha(t) * np.expm1(-h) * old[0][1]
    if not others:
        return x
    r = np.array([(lam - s) / h for lam, _ in others])
    slopes = [(value - old[0][1]) / rk for (_, value), rk in zip(others, r, strict=True)]
    if len(others) == 1:
        rho = [0.5]
    else:  # sum_k rho_k r_k^(m - 1) B = m-th moment
        moments = [
            quad(lambda v, m=m: h * np.exp(-h * (1 - v)) * v**m, 0, 1, epsabs=1e-11, epsrel=1e-11)[
                0
            ]
            for m in range(1, len(r) + 1)
        ]
        rho = np.linalg.solve(np.stack([r**m for m in range(len(r))]), moments) / scale
    return x + alpha(t) * scale * sum(a * slope for a, slope in zip(rho, slopes, strict=True))


def sa(x, lam, D, E, z, predictor, corrector, tau):
    """SA-Solver, arXiv:2309.05019, algorithm 1, constant tau: weights by quadrature."""

    def stepped(x, s, t, points, noise):
        h, k = t - s, 1 + tau**2
        x = (
            sigma(t) / sigma(s) * np.exp(-(tau**2) * h) * x
            + sigma(t) * np.sqrt(-np.expm1(-2 * tau**2 * h)) * noise
        )
        nodes = [node for node, _ in points]
        for j, (_, value) in enumerate(points):
            polynomial = lagrange(nodes, j)
            x = (
                x
                + alpha(t)
                * quad(
                    lambda v, p=polynomial: k * np.exp(-k * (t - v)) * p(v),
                    s,
                    t,
                    epsabs=1e-11,
                    epsrel=1e-11,
                )[0]
                * value
            )
        return x

    old, before = [], None
    for i in range(len(lam) - 1):
        now = (lam[i], D(x, lam[i]))
        if before is not None and corrector:
            start, points, noise = before
            x = stepped(start, lam[i - 1], lam[i], [now, *points[:corrector]], noise)
        old = [now, *old]
        before = (x, old, z() if tau else 0.0)
        x = stepped(x, lam[i], lam[i + 1], old[:predictor], before[2])
    return x


def dpm_2(x, lam, D, E, z):
    """The midpoint method of k-diffusion in y = x / alpha over the noise level."""
    for s, t in zip(lam[:-1], lam[1:], strict=True):
        m = (s + t) / 2
        u = alpha(m) * (x / alpha(s) + (np.exp(-m) - np.exp(-s)) * E(x, s))
        x = alpha(t) * (x / alpha(s) + (np.exp(-t) - np.exp(-s)) * E(u, m))
    return x


def heun(x, lam, D, E, z, churn=0.0, s_noise=1.0):
    """EDM's stochastic sampler, arXiv:2206.00364, algorithm 2, in y = x / alpha."""
    gamma = min(churn / (len(lam) - 1), np.sqrt(2) - 1)
    y = x / alpha(lam[0])
    for s, t in zip(lam[:-1], lam[1:], strict=True):
        level, low = np.exp(-s), np.exp(-t)
        high = min(level * (1 + gamma), np.exp(-lam[0]))
        if churn:
            y = y + np.sqrt(high**2 - level**2) * s_noise * z()
        d = E(alpha(-np.log(high)) * y, -np.log(high))
        u = y + (low - high) * d
        y = y + (low - high) * (0.5 * d + 0.5 * E(alpha(t) * u, t))
    return alpha(lam[-1]) * y
