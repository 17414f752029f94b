package remote

// ForgetSlow forgets whose platform was slow: nobody is passed over.
func (k *Keeper) ForgetSlow() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.resting)
}
