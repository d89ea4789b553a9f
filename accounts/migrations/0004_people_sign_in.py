"""Providers that vouch for people, the roles they give, and people's sign-ins, each tenant's its own."""

import django.contrib.postgres.fields
import django.core.validators
import django.db.models.deletion
import django.utils.timezone
import uuid
from django.conf import settings
from django.db import migrations, models


TABLES = ("identityprovider", "rolemapping", "federatedidentity", "signin")


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0003_trust_rules_of_conditions'),
    ]

    operations = [
        migrations.CreateModel(
            name='IdentityProvider',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('slug', models.CharField(help_text='In the URLs that are pasted at the provider.', max_length=63, validators=[django.core.validators.RegexValidator('^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\Z', 'Use 1 to 63 small letters, digits and hyphens.')])),
                ('name', models.CharField(help_text='On the sign-in button.', max_length=100)),
                ('kind', models.CharField(choices=[('oidc', 'OpenID Connect'), ('saml', 'SAML 2.0')], default='oidc', max_length=8)),
                ('preset', models.CharField(choices=[('okta', 'Okta'), ('entra', 'Microsoft Entra ID'), ('google', 'Google Workspace'), ('keycloak', 'Keycloak'), ('other', 'Other')], default='other', max_length=16)),
                ('is_active', models.BooleanField(default=True)),
                ('issuer', models.CharField(help_text='Exactly the `iss` of its tokens, or its SAML entity ID.', max_length=500, verbose_name='issuer or entity ID')),
                ('metadata_url', models.CharField(blank=True, help_text='Of the SAML metadata, or the OIDC discovery document. Empty: what is pasted; else by the issuer.', max_length=500, verbose_name='metadata URL')),
                ('metadata', models.TextField(blank=True, help_text="The discovery document (JSON) or metadata (XML), where it can't be fetched.", max_length=262144, verbose_name='pasted metadata')),
                ('client_id', models.CharField(blank=True, help_text='OIDC only.', max_length=500, verbose_name='client ID')),
                ('sealed_secret', models.TextField(blank=True, editable=False)),
                ('certificate', models.TextField(blank=True, editable=False, help_text='Of our SAML key, in PEM.')),
                ('scopes', models.CharField(default='openid email profile', help_text='OIDC only.', max_length=200)),
                ('email_claim', models.CharField(default='email', help_text='The claim or attribute of the address.', max_length=200)),
                ('groups_claim', models.CharField(default='groups', help_text='The claim or attribute whose values the role mappings name.', max_length=200)),
                ('email_domains', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=253, validators=[django.core.validators.RegexValidator('^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+\\Z', 'Use domains such as acme.example.')]), blank=True, default=list, help_text='It may vouch for addresses of these domains only. Empty: for any.', size=50)),
                ('wants_signed_response', models.BooleanField(default=False, help_text='SAML only; the assertion always must be.', verbose_name='response must be signed')),
                ('allows_unasked', models.BooleanField(default=False, help_text='SAML only. Anybody can then sign a person in unasked.', verbose_name='IdP-initiated sign-in')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
            ],
            options={
                'ordering': ('name',),
            },
        ),
        migrations.CreateModel(
            name='FederatedIdentity',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('subject', models.CharField(max_length=500)),
                ('groups', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=250), blank=True, default=list, size=None)),
                ('last_sign_in_at', models.DateTimeField(editable=False, null=True)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='federated_identities', to=settings.AUTH_USER_MODEL)),
                ('provider', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='identities', to='accounts.identityprovider')),
            ],
            options={
                'verbose_name_plural': 'federated identities',
                'ordering': ('provider', 'subject'),
            },
        ),
        migrations.AddField(
            model_name='membership',
            name='given_by',
            field=models.ForeignKey(blank=True, editable=False, help_text='The provider whose groups gave the role, and take it at the next sign-in; empty: given by hand.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='accounts.identityprovider'),
        ),
        migrations.CreateModel(
            name='RoleMapping',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('group', models.CharField(max_length=250)),
                ('role', models.CharField(choices=[('owner', 'Owner'), ('admin', 'Administrator'), ('approver', 'Approver'), ('auditor', 'Auditor'), ('viewer', 'Viewer')], default='viewer', max_length=16)),
                ('provider', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='role_mappings', to='accounts.identityprovider')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
            ],
            options={
                'ordering': ('group',),
            },
        ),
        migrations.CreateModel(
            name='SignIn',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('method', models.CharField(choices=[('password', 'Password'), ('totp', 'Password and code'), ('oidc', 'OpenID Connect'), ('saml', 'SAML 2.0')], max_length=16)),
                ('address', models.GenericIPAddressField(blank=True, null=True)),
                ('user_agent', models.CharField(blank=True, max_length=200)),
                ('started_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('last_seen_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('expires_at', models.DateTimeField()),
                ('ended_at', models.DateTimeField(blank=True, null=True)),
                ('name_id', models.CharField(blank=True, editable=False, max_length=500)),
                ('session_index', models.CharField(blank=True, editable=False, max_length=500)),
                ('provider', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='sign_ins', to='accounts.identityprovider')),
                ('tenant', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='accounts.tenant')),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='sign_ins', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name': 'sign-in',
                'ordering': ('-started_at',),
            },
        ),
        migrations.CreateModel(
            name='TotpDevice',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(help_text='The human-readable name of this device.', max_length=64)),
                ('confirmed', models.BooleanField(default=True, help_text='Is this device ready for use?')),
                ('throttling_failure_timestamp', models.DateTimeField(blank=True, default=None, help_text='A timestamp of the last failed verification attempt. Null if last attempt succeeded.', null=True)),
                ('throttling_failure_count', models.PositiveIntegerField(default=0, help_text='Number of successive failed attempts.')),
                ('created_at', models.DateTimeField(auto_now_add=True, help_text='The date and time when this device was initially created in the system.', null=True)),
                ('last_used_at', models.DateTimeField(blank=True, help_text='The most recent date and time this device was used.', null=True)),
                ('sealed_secret', models.TextField(editable=False)),
                ('last_step', models.BigIntegerField(default=-1, editable=False)),
                ('user', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='totp_device', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name': 'authenticator',
            },
        ),
        migrations.AddConstraint(
            model_name='identityprovider',
            constraint=models.UniqueConstraint(fields=('tenant', 'slug'), name='identity_provider_once_per_tenant'),
        ),
        migrations.AddConstraint(
            model_name='federatedidentity',
            constraint=models.UniqueConstraint(fields=('provider', 'subject'), name='federated_subject_once'),
        ),
        migrations.AddConstraint(
            model_name='federatedidentity',
            constraint=models.UniqueConstraint(fields=('provider', 'user'), name='federated_user_once'),
        ),
        migrations.AddConstraint(
            model_name='rolemapping',
            constraint=models.UniqueConstraint(fields=('provider', 'group'), name='role_mapping_once'),
        ),
        migrations.AddIndex(
            model_name='signin',
            index=models.Index(fields=['user', '-started_at'], name='accounts_si_user_id_936571_idx'),
        ),
        migrations.AddIndex(
            model_name='signin',
            index=models.Index(fields=['expires_at'], name='accounts_si_expires_9446be_idx'),
        ),
        *(
            migrations.RunSQL(
                sql=f"SELECT narrowgate_isolate('accounts_{table}')",
                reverse_sql=f"SELECT narrowgate_expose('accounts_{table}')",
            )
            for table in TABLES
        ),
    ]
