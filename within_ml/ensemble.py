import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
def simplex_weights(margins, y, w):
    k=margins.shape[1]
    def f(a):
        e=np.exp(a-a.max()); p=e/e.sum(); m=margins@p
        r=w*(expit(m)-y)
        g=margins.T@r
        loss=w@(np.logaddexp(0,m)-y*m)
        gp=g - 1/ k/np.maximum(p,1e-9)
        return loss-np.log(p).sum()/k, p*(gp-p@gp)
    res=minimize(f,np.zeros(k),jac=True,method="L-BFGS-B")
    e=np.exp(res.x-res.x.max()); return e/e.sum()
